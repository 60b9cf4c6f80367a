package githubtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// manifestOperations are about the making of the App, and its webhook.
func manifestOperations() map[string]operation {
	return map[string]operation{
		"apps/create-from-manifest":          convertManifest,
		"apps/get-webhook-config-for-app":    getHookConfig,
		"apps/update-webhook-config-for-app": updateHookConfig,
	}
}

// manifest is what the double reads of an App's manifest.
type manifest struct {
	Name           string `json:"name"`
	URL            string `json:"url"`
	RedirectURL    string `json:"redirect_url"`
	HookAttributes struct {
		URL string `json:"url"`
	} `json:"hook_attributes"`
	DefaultPermissions map[string]string `json:"default_permissions"`
	DefaultEvents      []string          `json:"default_events"`
}

// makeApp is the page where a person makes an App from a manifest; the double's
// person agrees at once. The App that is made is the double's own.
func (s *Server) makeApp(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	var m manifest
	if err := json.Unmarshal([]byte(r.PostFormValue("manifest")), &m); err != nil {
		http.Error(w, "the manifest can't be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	back, err := url.Parse(m.RedirectURL)
	if err != nil || back.Host == "" || m.URL == "" || m.HookAttributes.URL == "" || len(m.Name) > 34 {
		http.Error(w, "the manifest lacks url, redirect_url or hook_attributes.url, or its name is over 34 characters", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	code := rand.Text()
	s.manifests[code] = m
	s.mu.Unlock()
	query := back.Query()
	query.Set("code", code)
	query.Set("state", r.URL.Query().Get("state"))
	back.RawQuery = query.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func convertManifest(s *Server, r *request) (answer, error) {
	m, ok := s.manifests[r.PathValue("code")]
	if !ok {
		return answer{}, notFound()
	}
	delete(s.manifests, r.PathValue("code"))
	s.webhookURL, s.granted = m.HookAttributes.URL, m.DefaultPermissions
	out := s.appJSON()
	out["events"], out["permissions"] = m.DefaultEvents, m.DefaultPermissions
	out["client_id"], out["client_secret"] = "Iv1."+rand.Text(), rand.Text()
	out["webhook_secret"], out["pem"] = string(s.cfg.WebhookSecret), string(s.PrivateKey())
	return answer{status: http.StatusCreated, body: out}, nil
}

func getHookConfig(s *Server, _ *request) (answer, error) {
	return answer{status: http.StatusOK, body: s.hookConfigJSON()}, nil
}

func updateHookConfig(s *Server, r *request) (answer, error) {
	var asked struct {
		URL    *string `json:"url"`
		Secret *string `json:"secret"`
	}
	if err := json.Unmarshal(r.body, &asked); err != nil {
		return answer{}, &apiError{status: http.StatusBadRequest, message: fmt.Sprint("Problems parsing JSON: ", err)}
	}
	if asked.URL != nil {
		s.webhookURL = *asked.URL
	}
	if asked.Secret != nil {
		s.cfg.WebhookSecret = []byte(*asked.Secret)
	}
	return answer{status: http.StatusOK, body: s.hookConfigJSON()}, nil
}

// hookConfigJSON hides the secret, as GitHub does.
func (s *Server) hookConfigJSON() object {
	return object{"url": s.webhookURL, "content_type": "json", "insecure_ssl": "0", "secret": "********"}
}

// Grant sets what the owner of the installation has granted to the App.
func (s *Server) Grant(permissions map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.granted = permissions
}
