package intercept

import "crypto/tls"

// DialPublic is how GitHub is reached by default.
var DialPublic = dialPublic

// Certificate is the door's.
func Certificate(a *Authority, id, name string) (*tls.Certificate, error) {
	return a.certificate(id, name)
}
