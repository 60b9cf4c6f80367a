package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus/bench/process"
)

// What the floor writes, as the store does: frames of so much text, a journal of files
// of such a size.
const (
	frameText   = 256 << 10
	journalFile = 64 << 20
)

// meter adds up what is measured.
type meter struct {
	wall, cpu time.Duration
	lines     int
	raw       int64
}

// measure runs what counts.
func (m *meter) measure(do func() error) error {
	before, err := process.CPU(os.Getpid())
	if err != nil {
		return err
	}
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	m.wall += time.Since(began)
	after, err := process.CPU(os.Getpid())
	m.cpu += after - before
	return err
}

func (m *meter) result(dir string) (r result, err error) {
	r = result{LinesPerS: float64(m.lines) / m.wall.Seconds(), LinesPerCPU: float64(m.lines) / m.cpu.Seconds(), RawBytes: float64(m.raw)}
	peak, err := process.PeakRSS(os.Getpid())
	if err != nil {
		return r, err
	}
	r.RSS = float64(peak)
	return r, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			r.DiskBytes += float64(info.Size())
		}
		return err
	})
}

// runFloor does what can't be left out: the text goes to one file, which is synced for
// each batch, and compressed to one file for each job, which is synced at its end.
func runFloor(dir string, s size) (r result, err error) {
	w := newWorld(s)
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(512<<10))
	if err != nil {
		return r, err
	}
	files, pending := make([]*os.File, s.Jobs), make([][]byte, s.Jobs)
	for i := range files {
		if files[i], err = os.Create(filepath.Join(dir, fmt.Sprintf("%d.log", i))); err != nil {
			return r, err
		}
		defer files[i].Close()
	}
	journal, err := os.Create(filepath.Join(dir, "journal"))
	if err != nil {
		return r, err
	}
	defer journal.Close()
	var m meter
	var buf, packed []byte
	size := 0
	for batch := w.batch(); batch != nil; batch = w.batch() {
		err := m.measure(func() error {
			buf = buf[:0]
			for job, lines := range batch {
				from := len(buf)
				for _, l := range lines {
					buf = append(append(buf, l.Text...), '\n')
				}
				pending[job] = append(pending[job], buf[from:]...)
				m.lines += len(lines)
				if len(pending[job]) >= frameText {
					packed = enc.EncodeAll(pending[job], packed[:0])
					if _, err := files[job].Write(packed); err != nil {
						return err
					}
					pending[job] = pending[job][:0]
				}
			}
			m.raw += int64(len(buf))
			if size += len(buf); size > journalFile {
				size = 0
				if err := errors.Join(journal.Truncate(0), seekStart(journal)); err != nil {
					return err
				}
			}
			if _, err := journal.Write(buf); err != nil {
				return err
			}
			return journal.Sync()
		})
		if err != nil {
			return r, err
		}
	}
	err = m.measure(func() error {
		for job, f := range files {
			packed = enc.EncodeAll(pending[job], packed[:0])
			if _, err := f.Write(packed); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, os.Remove(journal.Name())); err != nil {
		return r, err
	}
	return m.result(dir)
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, 0)
	return err
}
