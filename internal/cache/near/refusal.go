package near

import (
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"
)

// away tells that there is no cache now. Clients go on without it at once where
// that is told by 404, and by 424 where they send; any 5xx has them try for half a
// minute and more, which is for uploads of GitHub's protocol alone, of which a part
// is through already.
func away(w http.ResponseWriter, r *http.Request) {
	status, code := http.StatusNotFound, "not_found"
	switch {
	case strings.HasPrefix(r.URL.Path, "/_cache/uploads/"), strings.HasPrefix(r.URL.Path, images):
		status, code = http.StatusServiceUnavailable, "unavailable"
	case strings.HasPrefix(r.URL.Path, "/cache/") && r.Method == http.MethodPut:
		status, code = http.StatusFailedDependency, "unavailable"
	}
	refuse(w, r, status, code, "the cache can't be reached from this host now")
}

// refuse answers with an error of this host's own, in the words of the protocol that
// its client speaks: a line of text by URL, Turborepo's JSON and Nx' statuses to these, XML as of Azure's
// blob storage where contents are, and else Twirp's JSON, which holds what those of
// protocol version 1 look for.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	header := w.Header()
	var body []byte
	contentType := "application/json"
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, images):
		body = inOCI(status, message)
	case strings.HasPrefix(path, "/cache/") && strings.Contains(path, "/v8/artifacts"):
		body = inJSON(map[string]map[string]string{"error": {"code": code, "message": message}})
	case strings.HasPrefix(path, "/cache/"):
		body, contentType = []byte(message+"\n"), "text/plain; charset=utf-8"
		if strings.Contains(path, "/v1/cache/") { // Nx' run fails at each status that its protocol has not
			status, contentType = http.StatusNotFound, "text/plain"
			if r.Method == http.MethodPut {
				status = http.StatusForbidden
			}
		}
	case strings.HasPrefix(path, "/_cache/"):
		body, contentType = inXML(azure(status), message), "application/xml"
		header.Set("X-Ms-Error-Code", azure(status))
		header.Set("X-Ms-Request-Id", rand.Text())
	default:
		body = inJSON(map[string]string{"code": code, "msg": message, "message": message})
	}
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // to who may be gone
}

// azure is what Azure calls an error: its SDKs go by that before the status.
func azure(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "ServerBusy"
	case http.StatusRequestTimeout:
		return "OperationTimedOut"
	}
	return "BlobNotFound"
}

func inJSON(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil { // of texts: never
		return []byte("{}")
	}
	return body
}

func inXML(code, message string) []byte {
	body, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string   `xml:"Code"`
		Message string   `xml:"Message"`
	}{Code: code, Message: message})
	if err != nil { // of texts: never
		return nil
	}
	return append([]byte(xml.Header), body...)
}
