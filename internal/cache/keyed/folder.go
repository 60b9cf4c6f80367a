package keyed

import (
	"encoding/xml"
	"fmt"
	"net/http"

	"github.com/nimbus-ci/nimbus"
)

// What clients of WebDAV do before they put a content: they look whether its
// folder is there, and make it. Here there are none, and all are.
const (
	propfind = "PROPFIND"
	mkcol    = "MKCOL"
)

// always is when a folder was last changed: opendal, which sccache has inside, takes
// one without that for none that it can write to.
const always = "Thu, 01 Jan 1970 00:00:00 GMT"

// folder answers what is asked of a path that ends with a slash.
func folder(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case mkcol:
		w.WriteHeader(http.StatusCreated)
		return nil
	case propfind:
		return writeProperties(w, r.URL.EscapedPath(), properties{Kind: &kind{&struct{}{}}, Modified: always})
	}
	return nimbus.Errorf(nimbus.CodeNotFound, "the path names no key")
}

// properties are what WebDAV's clients want to know.
type properties struct {
	Kind     *kind  `xml:"D:resourcetype"`
	Length   string `xml:"D:getcontentlength,omitempty"`
	Tag      string `xml:"D:getetag,omitempty"`
	Modified string `xml:"D:getlastmodified,omitempty"`
}

type kind struct {
	Folder *struct{} `xml:"D:collection,omitempty"`
}

// find tells what a content is, without sending it.
func (k call) find() error {
	entry, ok, err := k.cfg.Cache.Get(k.r.Context(), k.c, k.key, k.version)
	if err != nil {
		return fmt.Errorf("look for a key: %w", err)
	}
	if !ok {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
	}
	return writeProperties(k.w, k.r.URL.EscapedPath(), properties{
		Kind: &kind{}, Length: fmt.Sprint(entry.Size), Tag: tagOf(entry), Modified: entry.CreatedAt.UTC().Format(http.TimeFormat),
	})
}

func writeProperties(w http.ResponseWriter, path string, p properties) error {
	body, err := xml.Marshal(struct {
		XMLName xml.Name   `xml:"D:multistatus"`
		DAV     string     `xml:"xmlns:D,attr"`
		Path    string     `xml:"D:response>D:href"`
		Prop    properties `xml:"D:response>D:propstat>D:prop"`
		Status  string     `xml:"D:response>D:propstat>D:status"`
	}{DAV: "DAV:", Path: path, Prop: p, Status: "HTTP/1.1 200 OK"})
	if err != nil {
		return fmt.Errorf("write what a content is: %w", err)
	}
	write(w, http.StatusMultiStatus, "application/xml; charset=utf-8", append([]byte(xml.Header), body...))
	return nil
}
