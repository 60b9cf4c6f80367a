package near

import (
	"net/http"
	"strings"
)

// images is where the registry is. What jobs pull and push passes, and is not kept
// here.
const images = "/v2/"

// leadsBack has what the registry says of where its tokens are lead to the door,
// which has no TLS, by whatever way it was asked itself.
func leadsBack(r *http.Response) {
	const challenge = "WWW-Authenticate"
	if !strings.HasPrefix(r.Request.URL.Path, images) {
		return
	}
	for i, text := range r.Header.Values(challenge) {
		r.Header.Values(challenge)[i] = strings.Replace(text, `realm="https://`+r.Request.Host+"/", `realm="http://`+r.Request.Host+"/", 1)
	}
}

// inOCI is an error in the form in which registries refuse.
func inOCI(status int, message string) []byte {
	code, ok := map[int]string{http.StatusServiceUnavailable: "UNAVAILABLE", http.StatusTooManyRequests: "TOOMANYREQUESTS", http.StatusNotFound: "NAME_INVALID"}[status]
	if !ok {
		code = "UNKNOWN"
	}
	return inJSON(map[string][]map[string]string{"errors": {{"code": code, "message": message}}})
}
