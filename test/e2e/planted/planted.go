// Package planted makes secrets that a job plants in its log, so that whoever looks
// for leaks afterwards knows what to look for.
package planted

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"
)

// Count is how many there are.
const Count = 500

// Secret is one of them. They differ in what makes forms of them differ.
func Secret(seed string, i int) string {
	sum := func(part string) string {
		s := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", seed, i, part))
		return hex.EncodeToString(s[:])
	}
	switch i % 5 {
	case 0:
		return "ghp_" + sum("a")[:36]
	case 1:
		return "p&ss/wörd+" + sum("a")[:20] + `="<>'\?` + sum("b")[:8]
	case 2:
		return base64.StdEncoding.EncodeToString([]byte(sum("a")[:40]))
	case 3:
		return "-----BEGIN KEY-----\n" + sum("a") + "\n" + sum("b") + "\n-----END KEY-----\n"
	default:
		return `{"user":"` + sum("a")[:12] + `","key":"` + sum("b")[:24] + `"}`
	}
}

// Written is the ways in which a job writes a secret.
func Written(secret string) []string {
	whole := strings.TrimRight(secret, "\n")
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(whole)) // a buffer takes all
	quoted, err := json.Marshal(whole)
	if err != nil {
		panic(err) // it is text
	}
	encode := base64.StdEncoding.EncodeToString
	wrapped := encode([]byte(secret))
	for i := 76; i < len(wrapped); i += 77 {
		wrapped = wrapped[:i] + "\n" + wrapped[i:]
	}
	return []string{
		secret, encode([]byte(whole)), encode([]byte("user:" + whole)), encode([]byte("u:" + whole + ":x")), encode([]byte("xy:" + whole + "yz")),
		base64.URLEncoding.EncodeToString([]byte(whole)), wrapped,
		url.QueryEscape(whole), url.PathEscape(whole), hex.EncodeToString([]byte(whole)), string(quoted), escaped.String(),
	}
}

// Traces is what of a secret must be nowhere: each line of it, and of the ways in
// which it was written, without the ends that others have a part in.
func Traces(secret string) (out []string) {
	for _, written := range Written(secret) {
		for line := range strings.Lines(written) {
			if line = strings.Trim(line, "\r\n\""); len(line) >= 24 && !strings.HasPrefix(line, "-----") {
				out = append(out, line[6:len(line)-6])
			}
		}
	}
	return out
}
