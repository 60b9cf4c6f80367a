package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Config is where a bucket is, and how much is asked of it.
type Config struct {
	// Endpoint is the URL of S3: https, or http on this machine. Required.
	Endpoint string
	// Region is that of the bucket. Default: us-east-1, which others than Amazon
	// mostly go by.
	Region string
	Bucket string // required; it has to be there
	// Prefix is before the names of all objects; it ends in a slash, or is "".
	Prefix string
	// PathStyle has the bucket named in the path, not in the host, at Amazon too.
	PathStyle bool
	// CredentialsFile is a file as Amazon's tools have it (the profile default in
	// it, or AWS_PROFILE). Default: the variables AWS_ACCESS_KEY_ID,
	// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
	CredentialsFile string
	// CAFile has certificates that are trusted beside the system's.
	CAFile string

	// PartBytes is how much is sent in one request. Default: 8 MiB, which is
	// 80 GB in the 10,000 parts that S3 takes; at least 5 MiB.
	PartBytes int
	// Puts is how many may write at once; each may hold two parts in memory.
	// Others wait. Default: 16.
	Puts int
	// CallTimeout is how long S3 may take to answer what has no content.
	// Default: 30 s.
	CallTimeout time.Duration
	// IdleTimeout is how long a connection in use may pass no byte. Default: 60 s.
	IdleTimeout time.Duration
	// Abandoned is how old something has to be that Sweep takes for what nobody
	// writes any more. Default: 24 h.
	Abandoned time.Duration

	copyBytes int64 // copied by one request; tests have less
}

// Defaults, and what S3 bounds.
const (
	defaultRegion      = "us-east-1"
	defaultPartBytes   = 8 << 20
	minPartBytes       = 5 << 20
	maxPartBytes       = 64 << 20 // of memory, not of S3
	defaultPuts        = 16
	defaultCallTimeout = 30 * time.Second
	defaultIdleTimeout = time.Minute
	defaultAbandoned   = 24 * time.Hour
	defaultCopyBytes   = 512 << 20

	dialTimeout = 10 * time.Second
	keepIdle    = 90 * time.Second // a connection that waits for the next request
	maxIdle     = 64
)

// WithDefaults returns a copy with what isn't set.
func (c Config) WithDefaults() Config {
	c.Region = cmp.Or(c.Region, defaultRegion)
	c.PartBytes = cmp.Or(c.PartBytes, defaultPartBytes)
	c.Puts = cmp.Or(c.Puts, defaultPuts)
	c.CallTimeout = cmp.Or(c.CallTimeout, defaultCallTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, defaultIdleTimeout)
	c.Abandoned = cmp.Or(c.Abandoned, defaultAbandoned)
	c.copyBytes = cmp.Or(c.copyBytes, defaultCopyBytes)
	return c
}

// bucketName is what S3 takes for one.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func (c Config) validate() error {
	if _, err := c.endpoint(); err != nil {
		return err
	}
	if !bucketName.MatchString(c.Bucket) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no name of a bucket", c.Bucket).WithHint("it has 3 to 63 lower-case letters, digits, dots and hyphens")
	}
	if c.Prefix != "" && (!strings.HasSuffix(c.Prefix, "/") || blob.CheckKey(strings.TrimSuffix(c.Prefix, "/")) != nil || len(c.Prefix) > maxPrefix) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q can't be before the names of objects", c.Prefix).
			WithHint("it has letters, digits, dots, hyphens and slashes, and ends in one, as nimbus/")
	}
	if c.PartBytes < minPartBytes || c.PartBytes > maxPartBytes {
		return nimbus.Errorf(nimbus.CodeInvalid, "a part of %d bytes is not between 5 and 64 MiB", c.PartBytes)
	}
	if c.Puts < 1 || c.CallTimeout < 0 || c.IdleTimeout < 0 || c.Abandoned < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "times and counts of the object store have to be positive")
	}
	return nil
}

// maxPrefix leaves room for keys in the 1,024 bytes of a name.
const maxPrefix = 256

// endpoint reads the URL. A password in it would be in the process list and in
// errors: there may be none.
func (c Config) endpoint() (*url.URL, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the endpoint of the object store is no plain URL").WithHint("like https://s3.eu-central-1.amazonaws.com")
	}
	switch ip := net.ParseIP(u.Hostname()); {
	case u.Scheme == "https":
	case u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()):
	default:
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the endpoint %s is not https", u.Redacted()).WithHint("plain http is for this machine alone; --s3-ca names a certificate of your own")
	}
	return u, nil
}

// credentials finds them, so that a start without any fails at once and says so.
func (c Config) credentials() (*credentials.Credentials, error) {
	found, hint := credentials.NewEnvAWS(), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file: --s3-credentials-file"
	if c.CredentialsFile != "" {
		found, hint = credentials.NewFileAWSCredentials(c.CredentialsFile, ""), "it is as Amazon's tools have it: [default], aws_access_key_id = …, aws_secret_access_key = …"
		if _, err := os.Stat(c.CredentialsFile); err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the credentials of the object store can't be read: %w", err)
		}
	}
	value, err := found.GetWithContext(nil)
	if err != nil || value.AccessKeyID == "" || value.SecretAccessKey == "" { // the error may quote the file
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are no credentials for the object store").WithHint("%s", hint)
	}
	return found, nil
}

// transport makes connections that end where no byte passes. HTTP/2 would have
// one connection for all, in which one that hangs is not seen beside others.
func (c Config) transport() (*http.Transport, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &idleConn{Conn: conn, idle: c.IdleTimeout}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		Protocols:             http1(),
		MaxIdleConns:          maxIdle,
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       keepIdle,
		ResponseHeaderTimeout: c.IdleTimeout,
		DisableCompression:    true, // content comes as it was put
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}, nil
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

func (c Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the certificates for the object store can't be read: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	if !roots.AppendCertsFromPEM(raw) {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s has no certificate", c.CAFile).WithHint("it has to be PEM")
	}
	return roots, nil
}

func (c Config) client(transport http.RoundTripper, tries int) (*minio.Core, error) {
	u, err := c.endpoint()
	if err != nil {
		return nil, err
	}
	creds, err := c.credentials()
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if c.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Transport: bodyGuard{transport}, Region: c.Region, BucketLookup: lookup, MaxRetries: tries,
	})
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the object store can't be used: %w", err)
	}
	core.SetAppInfo("nimbus", runtime.Version())
	return core, nil
}

// idleConn is a connection on which each byte in one direction gives both of them
// time: an answer is waited for while a body still goes out.
type idleConn struct {
	net.Conn

	idle time.Duration
}

// Read implements net.Conn.
func (c *idleConn) Read(p []byte) (int, error) {
	return c.moved(p, c.Conn.Read)
}

// Write implements net.Conn.
func (c *idleConn) Write(p []byte) (int, error) {
	return c.moved(p, c.Conn.Write)
}

func (c *idleConn) moved(p []byte, move func([]byte) (int, error)) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	n, err := move(p)
	return n, err
}
