package tlsfile

import "crypto/tls"

// ClientFlags say whom a client trusts, and how it is known.
type ClientFlags struct {
	CAFile     string `name:"ca-file" help:"File with the CA certificates to trust, PEM, instead of the system's." env:"NIMBUS_CA_FILE" type:"path" placeholder:"FILE"`
	ClientCert string `help:"File with a certificate chain to show to the server, PEM. It may be replaced at any time." env:"NIMBUS_CLIENT_CERT" type:"path" placeholder:"FILE"`
	ClientKey  string `help:"File with that certificate's key, PEM." env:"NIMBUS_CLIENT_KEY" type:"path" placeholder:"FILE"`
}

// Config reads the files that are named; nil when none is.
func (f ClientFlags) Config() (*tls.Config, error) {
	return Client(f.CAFile, f.ClientCert, f.ClientKey)
}
