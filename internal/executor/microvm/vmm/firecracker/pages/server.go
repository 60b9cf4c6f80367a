package pages

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// batch is how much is copied in at once ahead of need, at most: a fault waits
// that long.
const batch = 256 << 10

// maxDeferred is how many faults wait at once: one for each thread of the
// monitor, of which there are fewer.
const maxDeferred = 4096

// Stats is what a server has done.
type Stats struct {
	Faults, Prefetched, Zeroed int // pages
	Removals                   int
}

// server serves the memory of one machine.
type server struct {
	memory  *os.File
	regions []region
	page    uint64
	uffd    uffd
	buf     []byte   // outside of Go's heap: the kernel reads it by address
	removed []bitmap // by region: the guest gave these pages back
	waiting []uint64 // faults that could not be served yet
	ahead   []uint32 // pages still to be copied in, by their number in the file
	record  *recorder
	stats   Stats
}

// Config is what a server is told beside the memory.
type Config struct {
	// UID is the monitor's user.
	UID int
	// Ahead are pages that are copied in before somebody needs them, by their
	// number in the file.
	Ahead []uint32
	// Record is told, once, which pages were needed in the first RecordFor, in
	// order: then, or when the monitor ends before. nil records nothing.
	Record    func(needed []uint32)
	RecordFor time.Duration
}

// Serve hears on conn what the monitor's memory is, and serves it until the
// monitor is gone or ctx ends.
func Serve(ctx context.Context, conn *net.UnixConn, memory *os.File, cfg Config) (Stats, error) {
	info, err := memory.Stat()
	if err != nil {
		return Stats{}, fmt.Errorf("serve pages: %w", err)
	}
	regions, fd, err := receive(conn, cfg.UID, info.Size())
	if err != nil {
		return Stats{}, fmt.Errorf("serve pages: %w", err)
	}
	defer unix.Close(int(fd))
	s := &server{memory: memory, regions: regions, page: regions[0].PageSize, uffd: fd, ahead: cfg.Ahead}
	if s.buf, err = unix.Mmap(-1, 0, int(max(batch, s.page)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return Stats{}, fmt.Errorf("serve pages: make buffer: %w", err)
	}
	for _, r := range regions {
		s.removed = append(s.removed, newBitmap(r.Size/s.page))
	}
	if cfg.Record != nil {
		s.record = &recorder{until: time.Now().Add(cfg.RecordFor), limit: int(info.Size()) / int(s.page), done: cfg.Record}
	}
	err = s.run(ctx)
	s.record.finish()
	return s.stats, errors.Join(err, unix.Munmap(s.buf))
}

// run is the loop: events first, then pages ahead of need, then sleep. That the
// monitor hangs up is no end: only its process' end is.
func (s *server) run(ctx context.Context) error {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("serve pages: %w", err)
	}
	defer unix.Close(stop)
	woken := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it can't be full
	})
	defer func() {
		if !cancel() {
			<-woken // it writes to stop, which is about to be closed
		}
	}()
	polled := []unix.PollFd{
		{Fd: int32(s.uffd), Events: unix.POLLIN},
		{Fd: int32(stop), Events: unix.POLLIN},
	}
	for {
		if err := s.handleEvents(); err != nil {
			return endOf(err)
		}
		if err := s.copyAhead(); err != nil {
			return endOf(err)
		}
		timeout := s.record.remaining()
		if len(s.ahead) > 0 || len(s.waiting) > 0 {
			timeout = 0
		}
		if _, err := unix.Poll(polled, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("serve pages: poll: %w", err)
		}
		if polled[1].Revents != 0 || polled[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
			return nil
		}
	}
}

// endOf tells the end of the monitor from an error: its memory is gone then.
func endOf(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return fmt.Errorf("serve pages: %w", err)
}

// handleEvents handles what has happened. Removals come first: while the kernel
// has one to tell, it lets no page be copied in; and a fault of a page that was
// given back may be told before that.
func (s *server) handleEvents() error {
	raw := make([]byte, 64*eventSize)
	events, err := s.uffd.readEvents(raw)
	if err != nil {
		return err
	}
	faults := s.waiting
	s.waiting = nil
	for _, e := range events {
		switch e.kind {
		case eventRemove:
			s.remove(e.address, e.end)
		case eventFault:
			faults = append(faults, e.address&^(s.page-1))
		default:
			return fmt.Errorf("an event of kind %#x that was not asked for", e.kind)
		}
	}
	for _, address := range faults {
		err := s.serve(address)
		if errors.Is(err, unix.EAGAIN) {
			if len(s.waiting) == maxDeferred {
				return errors.New("too many faults wait")
			}
			s.waiting = append(s.waiting, address)
			continue
		}
		if err != nil {
			return fmt.Errorf("page at %#x: %w", address, err)
		}
	}
	return nil
}

// serve puts in the page that somebody waits for.
func (s *server) serve(address uint64) error {
	i, r, ok := s.find(address)
	if !ok {
		return errors.New("it is not in the machine's memory")
	}
	number := (address - r.Base) / s.page
	var err error
	if s.removed[i].has(number) {
		err = s.putZero(address)
	} else {
		offset := r.Offset + address - r.Base
		s.record.add(uint32(offset / s.page))
		err = s.put(address, offset, s.page)
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return s.uffd.wake(address, s.page)
	case errors.Is(err, unix.ENOENT):
		return nil // it was unmapped meanwhile
	case err == nil:
		s.stats.Faults++
	}
	return err
}

// put copies a piece of the file to address.
func (s *server) put(address, offset, length uint64) error {
	if _, err := s.memory.ReadAt(s.buf[:length], int64(offset)); err != nil {
		return fmt.Errorf("read memory file: %w", err)
	}
	for at := uint64(0); at < length; {
		n, err := s.uffd.copyIn(address+at, s.buf[at:length])
		at += uint64(n)
		switch {
		case err == nil, n > 0:
		case errors.Is(err, unix.EEXIST) && length > s.page:
			at += s.page // one that is there already
		default:
			return err
		}
	}
	return nil
}

// putZero puts in a page of zeros; there is no such call for huge pages.
func (s *server) putZero(address uint64) error {
	s.stats.Zeroed++
	if s.page == smallPage {
		return s.uffd.zero(address, s.page)
	}
	clear(s.buf[:s.page])
	_, err := s.uffd.copyIn(address, s.buf[:s.page])
	return err
}

// remove remembers that the guest gave pages back: what they held must not
// appear in them again.
func (s *server) remove(start, end uint64) {
	s.stats.Removals++
	for i, r := range s.regions {
		from, to := max(start, r.Base), min(end, r.Base+r.Size)
		if from < to {
			s.removed[i].add((from-r.Base)/s.page, (to-r.Base+s.page-1)/s.page)
		}
	}
}

func (s *server) find(address uint64) (int, region, bool) {
	for i, r := range s.regions {
		if address >= r.Base && address-r.Base < r.Size {
			return i, r, true
		}
	}
	return 0, region{}, false
}
