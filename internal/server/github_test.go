package server

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// openServer opens the data directory and tells what a webhook is answered.
func openServer(t *testing.T, data string, g *GitHub) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Open(t.Context(), Config{Data: data, Listener: l, GitHub: g, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewBufferString("{}")))
	return w.Code
}

func TestTheAppIsKeptSealed(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	if got := openServer(t, data, nil); got != http.StatusNotFound {
		t.Errorf("without an App a webhook is answered %d", got)
	}
	const secret = "a-webhook-secret-of-some-length"
	app := &GitHub{
		AppID: 1, WebhookSecrets: [][]byte{[]byte(secret)},
		PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
	}
	for _, g := range []*GitHub{app, nil} { // given, then remembered
		if got := openServer(t, data, g); got != http.StatusUnauthorized {
			t.Errorf("an unsigned webhook is answered %d", got)
		}
	}
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, plain := range [][]byte{[]byte(secret), app.PrivateKey} {
			if bytes.Contains(raw, plain) || bytes.Contains(raw, []byte(base64.StdEncoding.EncodeToString(plain))) {
				t.Errorf("%s holds a secret in the clear", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
