package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"syscall"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/tlsfile"
)

// listenFlags say where a server listens, and with which certificate.
type listenFlags struct {
	Listen    string `help:"Address to listen on. Beyond this machine it needs TLS." default:"127.0.0.1:8080" env:"NIMBUS_LISTEN" placeholder:"HOST:PORT"`
	PublicURL string `help:"Address at which people reach the dashboard, for links in check runs." env:"NIMBUS_PUBLIC_URL" placeholder:"URL"`
	TLSCert   string `help:"File with the certificate chain, PEM." name:"tls-cert" type:"path" placeholder:"FILE"`
	TLSKey    string `help:"File with the certificate's key, PEM." name:"tls-key" type:"path" placeholder:"FILE"`

	TLSClientCA string `help:"File with CA certificates, PEM: hosts must show a certificate of one of them, besides their own proof." name:"tls-client-ca" type:"path" placeholder:"FILE"`
}

func (c *listenFlags) tls() (*tls.Config, error) {
	switch {
	case c.TLSCert == "" && c.TLSKey == "" && c.TLSClientCA != "":
		return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--tls-client-ca needs --tls-cert and --tls-key"))
	case c.TLSCert == "" && c.TLSKey == "":
		return nil, nil
	case c.TLSCert == "" || c.TLSKey == "":
		return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--tls-cert and --tls-key belong together"))
	}
	return tlsfile.Server(c.TLSCert, c.TLSKey, c.TLSClientCA)
}

// publicURL checks the address that links begin with.
func (c *listenFlags) publicURL() (string, error) {
	if c.PublicURL == "" {
		return "", nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--public-url %q is no address of a dashboard", c.PublicURL).WithHint("it looks like https://nimbus.example.com"))
	}
	return c.PublicURL, nil
}

// listen refuses to be reached by others without TLS: tokens would travel in
// the clear.
func (c *listenFlags) listen(ctx context.Context) (net.Listener, error) {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--listen %q is no address to listen on: %w", c.Listen, err).WithHint("an address looks like 127.0.0.1:8080"))
	}
	ip := net.ParseIP(host)
	if loopback := host == "localhost" || ip != nil && ip.IsLoopback(); !loopback && c.TLSCert == "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s can be reached by others, who could read tokens on their way", c.Listen).
			WithHint("give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that has them")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, nimbus.Errorf(nimbus.CodeConflict, "something listens on %s already: %w", c.Listen, err).WithHint("choose another address with --listen")
	}
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "can't listen on %s: %w", c.Listen, err)
	}
	return l, nil
}
