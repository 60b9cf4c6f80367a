package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxBody bounds a request: larger ones are refused before the engine sees them.
const maxBody = 1 << 30

// door answers ClickHouse's HTTP interface, one query at a time.
type door struct {
	mu     sync.Mutex
	engine *engine
}

// unset are parameters of the interface that are no settings, or that say what
// this door can't do anyway.
var unset = []string{
	"query", "database", "default_format", "user", "password", "role", "query_id", "quota_key", "compress", "decompress",
	"enable_http_compression", "client_protocol_version", "wait_end_of_query", "session_id", "session_check", "session_timeout",
}

var (
	// What the client asks first; revision 0 has it read all later answers in
	// the form in which the library writes them.
	helloQuery = "SELECT displayName(), version(), revision(), timezone()"
	endFormat  = regexp.MustCompile(`(?is)^\s*(INSERT\s.*)\sFORMAT\s+([A-Za-z]+)\s*;?\s*$`)
	errorCode  = regexp.MustCompile(`Code: (\d+)`)
	plainValue = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
)

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		fmt.Fprint(w, "Ok.\n")
		return
	}
	body, err := requestBody(r)
	if err != nil {
		refuse(w, err)
		return
	}
	values := r.URL.Query()
	query := values.Get("query")
	insert := endFormat.FindStringSubmatch(query)
	if insert == nil {
		query += "\n" + string(body)
	}
	if strings.TrimSpace(query) == helloQuery {
		answer(w, "Native", hello(), 0)
		return
	}
	format := values.Get("default_format")
	if format == "" {
		format = r.Header.Get("X-Clickhouse-Format")
	}
	if format == "" {
		format = "TabSeparated"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Context().Err() != nil {
		return // who asked is gone
	}
	defer d.reset(values)
	if err := d.prepare(values); err != nil {
		refuse(w, err)
		return
	}
	if insert != nil {
		written, err := d.engine.stream(insert[1], insert[2], bytes.NewReader(body))
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, format, nil, written)
		return
	}
	out, written, err := d.engine.exec(query, format)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, format, out, written)
}

func requestBody(r *http.Request) ([]byte, error) {
	var in io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, fmt.Errorf("Code: 354. DB::Exception: %w", err) //nolint:staticcheck // as the engine says it
		}
		in = z
	}
	body, err := io.ReadAll(io.LimitReader(in, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("Code: 33. DB::Exception: the body can't be read: %w", err) //nolint:staticcheck // as the engine says it
	}
	return body, nil
}

// prepare sets what a request says, for its query alone.
func (d *door) prepare(values map[string][]string) error {
	database := "default"
	if v := values["database"]; len(v) > 0 && v[0] != "" {
		database = v[0]
	}
	if _, _, err := d.engine.exec("USE `"+strings.ReplaceAll(database, "`", "``")+"`", "Null"); err != nil {
		return err
	}
	for key, v := range values {
		if slices.Contains(unset, key) {
			continue
		}
		value := v[0]
		if strings.HasPrefix(key, "param_") || !plainValue.MatchString(value) {
			value = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
		}
		if _, _, err := d.engine.exec("SET "+key+" = "+value, "Null"); err != nil {
			return err
		}
	}
	return nil
}

func (d *door) reset(values map[string][]string) {
	for key := range values {
		if !slices.Contains(unset, key) && !strings.HasPrefix(key, "param_") {
			_, _, _ = d.engine.exec("SET "+key+" = DEFAULT", "Null") // one that could not be set has nothing to undo
		}
	}
}

// hello is a block of one row in the form of revision 54460.
func hello() []byte {
	b := []byte{1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0}
	b = binary.AppendUvarint(b, 4)
	b = binary.AppendUvarint(b, 1)
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, c := range [][3]string{{"displayName()", "String", "chdb"}, {"version()", "String", "26.7.2.1"}, {"revision()", "UInt32", ""}, {"timezone()", "String", "UTC"}} {
		str(c[0])
		str(c[1])
		b = append(b, 0)
		if c[1] == "UInt32" {
			b = append(b, 0, 0, 0, 0)
		} else {
			str(c[2])
		}
	}
	return b
}

func answer(w http.ResponseWriter, format string, out []byte, written uint64) {
	h := w.Header()
	h.Set("X-ClickHouse-Format", format)
	h.Set("X-ClickHouse-Timezone", "UTC")
	h.Set("X-ClickHouse-Summary", `{"written_rows":"`+strconv.FormatUint(written, 10)+`"}`)
	h.Set("Content-Length", strconv.Itoa(len(out)))
	_, _ = w.Write(out) // who asked may be gone
}

func refuse(w http.ResponseWriter, err error) {
	said := err.Error()
	code := "1002"
	if m := errorCode.FindStringSubmatch(said); m != nil {
		code = m[1]
	} else {
		if strings.Contains(said, "UNKNOWN_SETTING") {
			code = "115"
		}
		said = "Code: " + code + ". DB::Exception: " + said
	}
	w.Header().Set("X-ClickHouse-Exception-Code", code)
	http.Error(w, said, http.StatusInternalServerError)
}
