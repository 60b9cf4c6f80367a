package lines

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
)

// fewLines is of how many lines each is encoded by itself: of more, as a key in PEM
// has, the whole is.
const fewLines = 8

// forms returns how a secret may be written: as it is, line by line, since that is
// how one with several would be printed, and as programs encode it. What is shorter
// than minSecret is left out. Other mixes of what is escaped are found by decoding
// (notation), other rows of what is encoded by windows (rows).
func forms(secret string) []string {
	whole := strings.TrimRight(secret, "\r\n")
	parts := linesOf(whole)
	out := distinct{}
	out.add(parts...)
	for _, part := range parts {
		out.add(strings.TrimSpace(part)) // as what was indented is printed
	}
	encoded := parts
	if strings.Contains(whole, "\n") {
		if len(parts) > fewLines {
			encoded = nil
			for _, part := range parts {
				out.add(append(urlForms(part), quotedForms(part)...)...)
			}
		}
		encoded = append(slices.Clone(encoded), whole)
		out.add(base64Forms(whole + "\n")...)
	}
	for _, text := range encoded {
		if inner := strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`); len(inner) == len(text)-2 {
			out.add(inner)
		}
		out.add(base64Forms(text)...)
		out.add(urlForms(text)...)
		out.add(quotedForms(text)...)
		out.add(hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))))
	}
	return slices.Collect(maps.Keys(out))
}

// distinct is texts that are long enough.
type distinct map[string]struct{}

func (d distinct) add(texts ...string) {
	for _, text := range texts {
		if len(strings.TrimSpace(text)) >= minSecret {
			d[text] = struct{}{}
		}
	}
}

// linesOf is each line of a secret that is long enough.
func linesOf(secret string) (out []string) {
	for line := range strings.Lines(secret) {
		if line = strings.TrimRight(line, "\r\n"); len(strings.TrimSpace(line)) >= minSecret {
			out = append(out, line)
		}
	}
	return out
}

// wrapped is where the common programs begin a new line: base64(1) and MIME, and
// PEM.
var wrapped = [...]int{76, 64}

// base64Forms is a text in base64 by itself, and in the midst of others: then its
// first bit is the first, third or fifth of a character.
func base64Forms(text string) []string {
	var out []string
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		alone := encoding.EncodeToString([]byte(text))
		out = append(out, alone)
		for before := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", before) + text))
			// Characters that have bits of what is before or behind are not the text's.
			out = append(out, encoded[(before*8+5)/6:(before+len(text))*8/6])
		}
		for _, width := range wrapped {
			for rest := alone; len(alone) > width && rest != ""; rest = rest[min(width, len(rest)):] {
				out = append(out, rest[:min(width, len(rest))])
			}
		}
	}
	return out
}

// urlForms is a text in URLs: as Go and forms write it, and as JavaScript does.
func urlForms(text string) []string {
	var component strings.Builder
	for _, b := range []byte(text) {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-_.!~*'()", b) >= 0 {
			component.WriteByte(b)
		} else {
			fmt.Fprintf(&component, "%%%02X", b)
		}
	}
	out := []string{url.QueryEscape(text), url.PathEscape(text), component.String()}
	for _, form := range out {
		out = append(out, lowerEscapes(form))
	}
	return out
}

// lowerEscapes writes %2F as %2f.
func lowerEscapes(text string) string {
	b := []byte(text)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], strings.ToLower(string(b[i+1:i+3])))
		}
	}
	return string(b)
}

// quotedForms is a text in JSON, as writers of it differ, in XML and in a shell's
// quotes.
func quotedForms(text string) []string {
	var plain strings.Builder
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	html, err := json.Marshal(text)
	if err != nil || enc.Encode(text) != nil {
		return nil // it can't be: it is a string
	}
	quoted := strings.TrimSuffix(plain.String(), "\n")
	quoted = quoted[1 : len(quoted)-1]
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text)) // a builder takes all
	return []string{
		quoted, string(html[1 : len(html)-1]), asciiOnly(quoted), strings.ReplaceAll(quoted, "/", `\/`),
		escaped.String(), strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(text),
		strings.ReplaceAll(text, "'", `'\''`),
	}
}

// asciiOnly writes what is not ASCII as JSON's \u.
func asciiOnly(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
