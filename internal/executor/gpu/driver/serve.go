//go:build cgo

package driver

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

const (
	// usageInterval is how often it is told what GPUs do, inventoryInterval how
	// often anew what there is and in which condition.
	usageInterval     = time.Second
	inventoryInterval = 5 * time.Second
	// eventWait is how long one question for events waits.
	eventWait = 500 * time.Millisecond
)

// Serve writes documents until ctx ends or nobody reads them; once writes an
// inventory and what the GPUs do, and returns. Where there is nothing to be read
// it says why, and that is no error.
func Serve(ctx context.Context, source Source, w io.Writer, once bool) error {
	if ret := source.Library.Init(); ret != nvml.SUCCESS {
		return inventory.Document{Failure: failure(ret)}.Write(w)
	}
	defer func() { _ = source.Library.Shutdown() }() // the process ends
	s := &teller{reader: reader{source: source}, w: w, began: time.Now()}
	if err := s.tellInventory(); err != nil || s.failed {
		return err
	}
	if err := s.tellUsage(); err != nil || once {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var events sync.WaitGroup
	events.Go(func() { s.tellEvents(ctx) })
	defer events.Wait()
	defer stop()
	return s.run(ctx)
}

type teller struct {
	reader reader
	began  time.Time
	failed bool

	mu sync.Mutex // of w
	w  io.Writer
}

func (s *teller) run(ctx context.Context) error {
	usages, inventories := time.NewTicker(usageInterval), time.NewTicker(inventoryInterval)
	defer usages.Stop()
	defer inventories.Stop()
	for !s.failed {
		var err error
		select {
		case <-usages.C:
			err = s.tellUsage()
		case <-inventories.C:
			err = s.tellInventory()
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *teller) tell(d inventory.Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return d.Write(s.w)
}

func (s *teller) tellInventory() error {
	inv, ret := s.reader.inventory()
	if ret != nvml.SUCCESS {
		s.failed = true
		return s.tell(inventory.Document{Failure: failure(ret)})
	}
	return s.tell(inventory.Document{Inventory: &inv})
}

func (s *teller) tellUsage() error {
	return s.tell(inventory.Document{Usage: s.reader.usage(time.Since(s.began).Milliseconds())})
}

// tellEvents tells of the driver's errors as they come. Where the driver has no
// such events, the conditions have to do.
func (s *teller) tellEvents(ctx context.Context) {
	lib := s.reader.source.Library
	set, ret := lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	defer func() { _ = set.Free() }() // as above
	n, _ := lib.DeviceGetCount()
	for index := range min(n, inventory.MaxGPUs) {
		if d, ret := lib.DeviceGetHandleByIndex(index); ret == nvml.SUCCESS {
			_ = d.RegisterEvents(nvml.EventTypeXidCriticalError, set) // one that has none is looked at all the same
		}
	}
	for ctx.Err() == nil {
		e, ret := set.Wait(uint32(eventWait.Milliseconds()))
		if ret != nvml.SUCCESS {
			if ret != nvml.ERROR_TIMEOUT {
				pause(ctx, eventWait) // a GPU is lost: the inventory tells which
			}
			continue
		}
		uuid, ret := e.Device.GetUUID()
		if ret != nvml.SUCCESS || e.EventType != nvml.EventTypeXidCriticalError {
			continue
		}
		if s.tell(inventory.Document{Event: &inventory.Event{GPU: uuid, XID: e.EventData}}) != nil {
			return // nobody reads: run finds that out, too
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
