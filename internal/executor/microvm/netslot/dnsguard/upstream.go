package dnsguard

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// tryTimeout bounds one try with one resolver.
const tryTimeout = 2 * time.Second

// upstreamAnswer is what a resolver says.
type upstreamAnswer struct {
	code    dnsmessage.RCode
	records []dnsmessage.Resource
}

var errNoResolver = errors.New("the host has no resolver")

// ask asks the host's resolvers in their order until one answers.
func (g *Guard) ask(ctx context.Context, name string, t dnsmessage.Type) (upstreamAnswer, error) {
	servers, err := g.cfg.Upstream()
	if err != nil {
		return upstreamAnswer{}, err
	}
	err = errNoResolver
	for _, server := range servers {
		var a upstreamAnswer
		if a, err = exchange(ctx, server, name, t); err == nil && a.code != dnsmessage.RCodeServerFailure {
			return a, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return upstreamAnswer{code: dnsmessage.RCodeServerFailure}, err
}

// exchange asks one resolver, over TCP once more where a datagram was too small.
func exchange(ctx context.Context, server, name string, t dnsmessage.Type) (upstreamAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	query, id, err := compose(name, t)
	if err != nil {
		return upstreamAnswer{}, err
	}
	a, truncated, err := exchangeOver(ctx, "udp", server, query, id)
	if err == nil && truncated {
		a, _, err = exchangeOver(ctx, "tcp", server, query, id)
	}
	if err != nil {
		return upstreamAnswer{}, fmt.Errorf("ask the resolver %s: %w", server, err)
	}
	return a, nil
}

// compose writes a question of our own: nothing of the guest's message goes out but
// the name and the type.
func compose(name string, t dnsmessage.Type) (query []byte, id uint16, err error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, 0, fmt.Errorf("ask for %q: %w", name, err)
	}
	var number [2]byte
	rand.Read(number[:]) // never fails
	id = binary.BigEndian.Uint16(number[:])
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions:   []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{extension("")},
	}
	if query, err = m.Pack(); err != nil {
		return nil, 0, fmt.Errorf("ask for %q: %w", name, err)
	}
	return query, id, nil
}

func exchangeOver(ctx context.Context, network, server string, query []byte, id uint16) (a upstreamAnswer, truncated bool, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return a, false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	send, receive := conn.Write, func() ([]byte, error) { return readDatagram(conn) }
	if network == "tcp" {
		send = func(b []byte) (int, error) { return conn.Write(frame(b)) }
		receive = func() ([]byte, error) { return readFrame(conn, maxMessage) }
	}
	if _, err := send(query); err != nil {
		return a, false, err
	}
	for {
		raw, err := receive()
		if err != nil {
			return a, false, err
		}
		// Somebody else's answer, or a late one, is waited past until the timeout.
		if a, truncated, err = read(raw, query, id); err == nil || network == "tcp" {
			return a, truncated, err
		}
	}
}

var errNotOurs = errors.New("the answer is to another question")

// read understands an answer, if it is to this question.
func read(raw, query []byte, id uint16) (a upstreamAnswer, truncated bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil {
		return a, false, err
	}
	asked, err := theQuestion(query)
	if err != nil {
		return a, false, err
	}
	got, err := p.Question()
	if err != nil {
		return a, false, err
	}
	if !h.Response || h.ID != id || got.Type != asked.Type || got.Class != asked.Class || normal(got.Name) != normal(asked.Name) {
		return a, false, errNotOurs
	}
	if err := p.SkipAllQuestions(); err != nil {
		return a, false, err
	}
	a.code = h.RCode
	if h.Truncated {
		return a, true, nil
	}
	a.records, err = records(&p)
	return a, false, err
}

func theQuestion(query []byte) (dnsmessage.Question, error) {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil {
		return dnsmessage.Question{}, err
	}
	return p.Question()
}

// maxScanned bounds the records of an answer that are looked at.
const maxScanned = 256

func records(p *dnsmessage.Parser) (out []dnsmessage.Resource, err error) {
	for range maxScanned {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Class != dnsmessage.ClassINET || !answered(h.Type) {
			if err := p.SkipAnswer(); err != nil {
				return nil, err
			}
			continue
		}
		r, err := p.Answer()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func readDatagram(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxMessage)
	n, err := r.Read(buf)
	return buf[:n], err
}

// frame puts a message's length before it, as TCP has it.
func frame(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, len(m)+2), uint16(len(m))), m...) //nolint:gosec // a message's length
}

// readFrame reads a message of at most limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > limit {
		return nil, fmt.Errorf("a message of %d bytes is over %d", n, limit)
	}
	m := make([]byte, n)
	_, err := io.ReadFull(r, m)
	return m, err
}
