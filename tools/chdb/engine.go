package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// engine is one connection to the library. It is not safe for concurrent use:
// settings live on the connection.
type engine struct {
	conn uintptr

	query     func(conn uintptr, q *byte, qlen uintptr, format *byte, flen uintptr) uintptr
	insert    func(conn uintptr, q *byte, qlen uintptr, format *byte, flen uintptr) uintptr
	appendTo  func(stream uintptr, data *byte, n uintptr) int32
	done      func(stream uintptr) uintptr
	insertErr func(stream uintptr) *byte
	endInsert func(stream uintptr)

	buffer  func(result uintptr) *byte
	length  func(result uintptr) uintptr
	errorOf func(result uintptr) *byte
	written func(result uintptr) uint64
	destroy func(result uintptr)
}

// open loads the library and opens its data. They stay open for as long as the
// process lives.
func open(lib, data, config string) (*engine, error) {
	so, err := purego.Dlopen(lib, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load the engine: %w", err)
	}
	e := &engine{}
	var connect func(argc int32, argv **byte) *uintptr
	for name, f := range map[string]any{
		"chdb_connect": &connect, "chdb_query_n": &e.query,
		"chdb_stream_insert_n": &e.insert, "chdb_stream_append": &e.appendTo, "chdb_stream_done": &e.done,
		"chdb_stream_insert_error": &e.insertErr, "chdb_destroy_insert_stream": &e.endInsert,
		"chdb_result_buffer": &e.buffer, "chdb_result_length": &e.length, "chdb_result_error": &e.errorOf,
		"chdb_result_rows_written": &e.written, "chdb_destroy_query_result": &e.destroy,
	} {
		purego.RegisterLibFunc(f, so, name)
	}
	args := []string{"clickhouse", "--path=" + data}
	if config != "" {
		args = append(args, "--config-file="+config)
	}
	argv := make([]*byte, 0, len(args)+1)
	for _, a := range args {
		argv = append(argv, &append([]byte(a), 0)[0])
	}
	argv = append(argv, nil)
	p := connect(int32(len(args)), &argv[0])
	runtime.KeepAlive(argv)
	if p == nil || *p == 0 {
		return nil, errors.New("the engine does not open its data")
	}
	e.conn = *p
	return e, nil
}

// exec runs a query and returns its answer in a format.
func (e *engine) exec(query, format string) (answer []byte, written uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q, f := []byte(query+"\x00"), []byte(format+"\x00")
	r := e.query(e.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)))
	runtime.KeepAlive(q)
	runtime.KeepAlive(f)
	return e.take(r)
}

// stream runs an insert whose data comes in pieces: data inside of a query is
// cut at certain bytes.
func (e *engine) stream(query, format string, data io.Reader) (written uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q, f := []byte(query+"\x00"), []byte(format+"\x00")
	s := e.insert(e.conn, &q[0], uintptr(len(query)), &f[0], uintptr(len(format)))
	runtime.KeepAlive(q)
	runtime.KeepAlive(f)
	if s == 0 {
		return 0, errors.New("Code: 1001. DB::Exception: the insert can't begin") //nolint:staticcheck // as the engine says it
	}
	defer e.endInsert(s)
	if said := text(e.insertErr(s)); said != "" {
		return 0, errors.New(said)
	}
	piece := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(data, piece)
		if n > 0 && e.appendTo(s, &piece[0], uintptr(n)) != 0 {
			return 0, errors.New(text(e.insertErr(s)))
		}
		if err != nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n < len(piece)) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read the rows: %w", err)
		}
	}
	_, written, err = e.take(e.done(s))
	return written, err
}

// take copies a result out of the library's memory.
func (e *engine) take(r uintptr) ([]byte, uint64, error) {
	if r == 0 {
		return nil, 0, errors.New("Code: 1001. DB::Exception: no result") //nolint:staticcheck // as the engine says it
	}
	defer e.destroy(r)
	if said := text(e.errorOf(r)); said != "" {
		return nil, 0, errors.New(said)
	}
	var answer []byte
	if n := e.length(r); n > 0 {
		answer = bytes.Clone(unsafe.Slice(e.buffer(r), n))
	}
	return answer, e.written(r), nil
}

// text copies a string of C.
func text(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
