package runnerlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPiece is the longest text that is kept in memory while its line's end is
// not there; a longer line is passed on in pieces.
const maxPiece = 1 << 20

// pageName is {timeline}_{record}_{page}.log.
var pageName = regexp.MustCompile(`^[0-9a-f-]{36}_([0-9a-f-]{36})_([1-9][0-9]{0,8})\.log$`)

// parseName returns the record that a page is of, and its number.
func parseName(name string) (record string, number int, ok bool) {
	m := pageName.FindStringSubmatch(name)
	if m == nil {
		return "", 0, false
	}
	number, err := strconv.Atoi(m[2])
	return m[1], number, err == nil
}

// stampLength is that of "2006-01-02T15:04:05.0000000Z", which a blank follows.
const stampLength = 28

// byteOrderMark begins every page.
const byteOrderMark = "\ufeff"

// unstamp takes the time off the front of a line. A line of a message that had
// several has none.
func unstamp(text []byte) (time.Time, []byte) {
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	if len(text) <= stampLength || text[stampLength] != ' ' || text[stampLength-1] != 'Z' {
		return time.Time{}, text
	}
	at, err := time.Parse(time.RFC3339Nano, string(text[:stampLength]))
	if err != nil {
		return time.Time{}, text
	}
	return at, text[stampLength+1:]
}

// page is one open file of a record. It stays readable when the runner removes
// its name.
type page struct {
	file  *os.File
	rest  []byte // of a line whose end is not written yet
	begun bool   // a piece of that line was passed on
}

// openPage opens a page below root, which the job can write to: it follows no
// link, waits for no pipe, and reads nothing but plain files.
func openPage(root *os.Root, name string) (*page, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open page: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no plain file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open page: %w", err)
	}
	return &page{file: f}, nil
}

// gone tells whether the runner has removed the page, which it does once
// nothing more is written.
func (p *page) gone() bool {
	info, err := p.file.Stat()
	if err != nil {
		return true
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	return ok && sys.Nlink == 0
}

// read passes on the lines that are whole now.
func (p *page) read(buf []byte, show func(time.Time, line)) error {
	for {
		n, err := p.file.Read(buf)
		p.take(buf[:n], show)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read page: %w", err)
		}
	}
}

func (p *page) take(data []byte, show func(time.Time, line)) {
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		n := min(len(data), p.limit()-len(p.rest))
		if i >= 0 {
			n = min(n, i)
		}
		p.rest = append(p.rest, data[:n]...)
		data = data[n:]
		switch {
		case n == i:
			data = data[1:]
			p.pass(false, show)
		case len(p.rest) == p.limit():
			p.pass(true, show)
		}
	}
}

// limit is how much is kept of a line without an end: the time before it does
// not count, so that each page of a record cuts it in the same places.
func (p *page) limit() int {
	const front = len(byteOrderMark) + stampLength + 1
	switch {
	case p.begun:
		return maxPiece
	case len(p.rest) < front:
		return front
	}
	_, text := unstamp(p.rest)
	return maxPiece + len(p.rest) - len(text)
}

// pass passes on what is kept.
func (p *page) pass(more bool, show func(time.Time, line)) {
	text := p.rest
	var at time.Time
	if !p.begun {
		at, text = unstamp(text)
	}
	show(at, line{string(text), more})
	p.begun = more
	if p.rest = p.rest[:0]; cap(p.rest) > 64<<10 {
		p.rest = nil
	}
}

// end passes on a line that never got its end, and closes the file.
func (p *page) end(show func(time.Time, line)) {
	if len(p.rest) > 0 || p.begun {
		p.pass(false, show)
	}
	p.file.Close()
}
