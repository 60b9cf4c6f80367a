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
	python := strings.NewReplacer("%2F", "/", "+", "%20").Replace(url.QueryEscape(whole)) // its quote leaves "/"
	dotNet := strings.NewReplacer("+", `\u002B`, "&", `\u0026`, "'", `\u0027`, "ö", `\u00F6`).Replace(plainJSON(whole))
	php := strings.NewReplacer("/", `\/`, "ö", `\u00f6`).Replace(plainJSON(whole))
	return []string{
		secret, encode([]byte(whole)), encode([]byte("user:" + whole)), encode([]byte("u:" + whole + ":x")), encode([]byte("xy:" + whole + "yz")),
		base64.URLEncoding.EncodeToString([]byte(whole)), rows(encode([]byte(secret)), 76),
		url.QueryEscape(whole), url.PathEscape(whole), hex.EncodeToString([]byte(whole)), string(quoted), escaped.String(),
		python, url.UserPassword("", whole).String(), php, dotNet,
		rows(encode([]byte("u:"+secret)), 76), rows(encode([]byte("u:"+secret)), 64), rows(encode([]byte(secret)), 100), rows(hex.EncodeToString([]byte("u:"+secret)), 60),
	}
}

// rows breaks what is encoded as programs do.
func rows(encoded string, width int) string {
	for i := width; i < len(encoded); i += width + 1 {
		encoded = encoded[:i] + "\n" + encoded[i:]
	}
	return encoded
}

// plainJSON is a text in JSON of a writer that escapes what it must.
func plainJSON(text string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		panic(err) // it is text
	}
	return strings.TrimSpace(b.String())
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
