package blobtest

import (
	"io"
	"os"
	"strings"
)

// Response is a writer that tells whether it got a part of a file in one piece:
// then, and only then, that of net/http has the kernel send it.
type Response struct {
	strings.Builder

	File bool
}

// ReadFrom implements io.ReaderFrom.
func (r *Response) ReadFrom(from io.Reader) (int64, error) {
	if limited, ok := from.(*io.LimitedReader); ok {
		_, r.File = limited.R.(*os.File)
	}
	return io.Copy(&r.Builder, from)
}
