package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A working set's file: the magic, the size of the memory, then the numbers of
// its pages of 4 KiB (2 MiB where the memory is made of such) in the order in
// which they were needed.
const (
	workingSetMagic = "nimbusws"
	headerSize      = len(workingSetMagic) + 8
	maxWorkingSet   = 1 << 22 // pages: 16 GiB
)

// readWorkingSet returns the pages that a machine of memory needs first, nil
// when nobody knows.
func readWorkingSet(path string, memory int64) ([]uint32, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read working set: %w", err)
	}
	if info.Size() > int64(headerSize)+4*maxWorkingSet {
		return nil, errors.New("read working set: it is too long")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read working set: %w", err)
	}
	if len(raw) < headerSize || string(raw[:len(workingSetMagic)]) != workingSetMagic || (len(raw)-headerSize)%4 != 0 {
		return nil, errors.New("read working set: it is no working set")
	}
	if size := binary.LittleEndian.Uint64(raw[len(workingSetMagic):]); size != uint64(memory) {
		return nil, fmt.Errorf("read working set: it is of a memory of %d bytes, this one has %d", size, memory)
	}
	pages := make([]uint32, 0, (len(raw)-headerSize)/4)
	for rest := raw[headerSize:]; len(rest) > 0; rest = rest[4:] {
		pages = append(pages, binary.LittleEndian.Uint32(rest))
	}
	return pages, nil
}

// writeWorkingSet writes the file whole or not at all.
func writeWorkingSet(path string, memory int64, pages []uint32) error {
	raw := append([]byte(workingSetMagic), make([]byte, 8)...)
	binary.LittleEndian.PutUint64(raw[len(workingSetMagic):], uint64(memory))
	for _, page := range pages[:min(len(pages), maxWorkingSet)] {
		raw = binary.LittleEndian.AppendUint32(raw, page)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".working-set-")
	if err != nil {
		return fmt.Errorf("write working set: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write working set: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write working set: %w", err)
	}
	return nil
}
