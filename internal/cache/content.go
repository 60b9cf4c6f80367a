package cache

import "io"

// Content is an entry's content, or a part of it, that is read once. Copied to an
// HTTP response by io.Copy, files go by sendfile.
type Content interface {
	io.ReadCloser
	io.WriterTo
}
