package guestlink

// TrustedFile is where a guest keeps the certificate that its agent has it trust.
// Programs that have certificates of their own, like Node, are told of it by their
// environment.
const TrustedFile = "/usr/local/share/ca-certificates/nimbus-host.crt"
