package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// floor keeps each upload in a file, and what the real client asks of a cache in
// memory. It does what a cache can't do without, and nothing more.
type floor struct {
	dir, base string
	buffers   sync.Pool

	mu      sync.Mutex
	entries map[string][]string // files by key, in order
}

const floorBuffer = 128 << 10

func serveFloor(dir, addr string) error {
	f := &floor{dir: dir, base: "http://" + addr, entries: map[string][]string{}, buffers: sync.Pool{New: func() any { return new([floorBuffer]byte) }}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /{account}/{container}/{name}", f.put)
	mux.HandleFunc("GET /{account}/{container}/{name}", f.get)
	mux.HandleFunc("POST /twirp/github.actions.results.api.v1.CacheService/{method}", f.call)
	srv := http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: time.Second}
	return srv.ListenAndServe()
}

// put takes a blob, a block of one, or the order of its blocks.
func (f *floor) put(w http.ResponseWriter, r *http.Request) {
	name, query := r.PathValue("name"), r.URL.Query()
	w.Header().Set("X-Ms-Request-Id", "1")
	var err error
	switch query.Get("comp") {
	case "blocklist":
		err = f.arrange(name, r.Body)
	case "block":
		err = f.store(url.PathEscape(name+query.Get("blockid")), r.Body)
	default:
		if err = f.store(name, r.Body); err == nil {
			f.note(name, []string{name})
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (f *floor) note(key string, files []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[key] = files
}

func (f *floor) files(key string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries[key]
}

// store hashes and syncs what comes, and then shows it.
func (f *floor) store(name string, r io.Reader) error {
	temp := filepath.Join(f.dir, "temp-"+rand.Text())
	file, err := os.Create(temp)
	if err != nil {
		return err
	}
	buffer, _ := f.buffers.Get().(*[floorBuffer]byte)
	defer f.buffers.Put(buffer)
	hash := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{io.TeeReader(r, hash)}, buffer[:])
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(f.dir, name)); err != nil {
		return err
	}
	folder, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (f *floor) arrange(name string, body io.Reader) error {
	var list struct {
		Latest []string `xml:"Latest"`
	}
	if err := xml.NewDecoder(body).Decode(&list); err != nil {
		return err
	}
	files := make([]string, len(list.Latest))
	for i, id := range list.Latest {
		files[i] = url.PathEscape(name + id)
	}
	f.note(name, files)
	return nil
}

// get sends what was kept, by the kernel.
func (f *floor) get(w http.ResponseWriter, r *http.Request) {
	files := f.files(r.PathValue("name"))
	if len(files) == 1 {
		http.ServeFile(w, r, filepath.Join(f.dir, files[0]))
		return
	}
	var size int64
	for _, name := range files {
		info, err := os.Stat(filepath.Join(f.dir, name))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		size += info.Size()
	}
	w.Header().Set("Content-Length", fmt.Sprint(size))
	for _, name := range files {
		if err := send(w, filepath.Join(f.dir, name)); err != nil {
			return
		}
	}
}

func send(w io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}

// call answers what the real client asks.
func (f *floor) call(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Key string `json:"key"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	blob := f.base + "/account/container/" + url.PathEscape(q.Key)
	answer := map[string]any{"ok": true}
	switch method := r.PathValue("method"); {
	case method == "CreateCacheEntry":
		answer["signed_upload_url"] = blob
	case method == "FinalizeCacheEntryUpload":
		answer["entry_id"] = "1"
	case len(f.files(q.Key)) == 0:
		answer["ok"] = false
	default:
		answer["signed_download_url"], answer["matched_key"] = blob, q.Key
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // to who may be gone
}

// forget removes what the floor has kept, so that disks don't fill.
func forget(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look what the floor keeps: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), kept) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove what the floor keeps: %w", err)
			}
		}
	}
	return nil
}
