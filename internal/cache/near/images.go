package near

import (
	"encoding/json"
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

// refuseImage answers in the form in which registries refuse.
func refuseImage(w http.ResponseWriter, status int, code, message string) {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]one{"errors": {{code, message}}}) // to who may be gone
}
