package distribution

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// service is what challenges call this registry.
const service = "nimbus"

const (
	// tokenFor is how long a token is valid. It ends sooner with the one that it was
	// given for.
	tokenFor = 15 * time.Minute
	// tokenPrefix is what tokens of the registry begin with.
	tokenPrefix = "nimbus-registry."
	maxScopes   = 20
	maxForm     = 64 << 10
)

// ticket is what a token of the registry holds, sealed: the token that it was given
// for, so that it is asked for with each use whether that still works, and what it
// was asked for.
type ticket struct {
	Token   string  `json:"t"`
	Expires int64   `json:"e"`
	Grants  []grant `json:"g,omitempty"`
}

// sealer seals tickets.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret []byte) (*sealer, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "registry tokens", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of tokens: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive the key of tokens: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("derive the key of tokens: %w", err)
	}
	return &sealer{aead}, nil
}

func (s *sealer) seal(t ticket) (string, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("write a token: %w", err)
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, text, nil)), nil
}

// open reads a token of the registry; ours is false for another one. Codes:
// unauthenticated.
func (s *sealer) open(token string, now time.Time) (t ticket, ours bool, err error) {
	text, ours := strings.CutPrefix(token, tokenPrefix)
	if !ours {
		return ticket{}, false, nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		sealed, err = s.aead.Open(nil, nil, sealed, nil)
	}
	if err == nil {
		err = json.Unmarshal(sealed, &t)
	}
	if err != nil {
		return ticket{}, true, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is not known")
	}
	if now.Unix() >= t.Expires {
		return ticket{}, true, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token has expired")
	}
	return t, true, nil
}

// token gives a token for what its caller asks for, as far as he may have that.
// GET is how Docker and most others ask, with a name that does not matter and a
// token of Nimbus as the password; POST is OAuth's way.
func (h *Handler) token(w http.ResponseWriter, r *http.Request) error {
	var scopes []string
	switch r.Method {
	case http.MethodGet:
		scopes = r.URL.Query()["scope"]
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "the form of a token can't be read")
		}
		if given := r.PostForm.Get("grant_type"); given != "password" {
			return nimbus.Errorf(nimbus.CodeInvalid, "the grant %.40q is not known here", given).WithHint("password is, with a token of Nimbus as the password")
		}
		scopes = strings.Fields(strings.Join(r.PostForm["scope"], " "))
		r = r.Clone(r.Context())
		r.SetBasicAuth("", r.PostForm.Get("password")) // a name may have a colon here, and does not matter
	default:
		return &methodError{methods: map[string]method{http.MethodGet: {}, http.MethodPost: {}}}
	}
	c, err := h.caller(r)
	if err != nil {
		return err
	}
	_, password, ok := r.BasicAuth()
	if !ok {
		if password, _ = bearer(r); c.bound {
			return nimbus.Errorf(nimbus.CodeForbidden, "a token of the registry gives no other one")
		}
	}
	t := ticket{Token: password, Expires: h.Clock.Now().Add(tokenFor).Unix()}
	if t.Grants, err = h.grants(r, c, scopes); err != nil {
		return err
	}
	sealed, err := h.seal.seal(t)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
	}{sealed, sealed, int(tokenFor.Seconds()), h.Clock.Now().UTC()})
	return nil
}

// grants are what of the scopes that are asked for the caller may have. What he may
// not, and what is no repository, is left out: the client finds out by using it.
func (h *Handler) grants(r *http.Request, c *caller, scopes []string) (all []grant, err error) {
	var asked []string
	for _, s := range scopes {
		asked = append(asked, strings.Fields(s)...)
	}
	if len(asked) > maxScopes {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%d scopes are too many, %d is the most", len(asked), maxScopes)
	}
	for _, scope := range asked {
		if scope == catalogScope {
			all = append(all, grant{Name: catalogScope})
			continue
		}
		name, wants, ok := readScope(scope)
		if !ok {
			continue
		}
		_, may, err := h.may(r.Context(), c, name, slices.Contains(wants, string(push)) || slices.Contains(wants, "*"))
		if code := nimbus.ErrorCode(err); err != nil && code != nimbus.CodeInvalid {
			return nil, err
		}
		may = slices.DeleteFunc(may, func(r right) bool { return !slices.Contains(wants, string(r)) && !slices.Contains(wants, "*") })
		if err == nil && len(may) > 0 {
			all = append(all, grant{name, may})
		}
	}
	return all, nil
}

// readScope reads "repository:NAME:RIGHT,RIGHT".
func readScope(scope string) (name string, wants []string, ok bool) {
	kind, rest, ok := strings.Cut(scope, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 || kind != "repository" && !strings.HasPrefix(kind, "repository(") {
		return "", nil, false
	}
	return rest[:i], strings.Split(rest[i+1:], ","), true
}
