// Package dnstest is a double of a resolver: it knows what a test tells it.
package dnstest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Server answers questions over UDP and TCP on one address.
type Server struct {
	Addr string

	mu    sync.Mutex
	zone  map[string][]string
	asked []string
	cut   bool
}

// Serve starts a resolver that knows records by name: "A 1.2.3.4",
// "AAAA ::1", "CNAME other.example.com", "TXT words". It ends with the test.
func Serve(t testing.TB, zone map[string][]string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: l.Addr().String(), zone: zone}
	var done sync.WaitGroup
	done.Go(func() { s.datagrams(socket) })
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { s.stream(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		socket.Close()
		done.Wait()
	})
	return s
}

// Set changes what is known of a name.
func (s *Server) Set(name string, records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = records
}

// CutDatagrams makes answers over UDP say that there is more.
func (s *Server) CutDatagrams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
}

// Asked are the names that were asked for, in their order.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *Server) datagrams(socket net.PacketConn) {
	buf := make([]byte, 1<<12)
	for {
		n, from, err := socket.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := s.answer(buf[:n], true); answer != nil {
			_, _ = socket.WriteTo(answer, from)
		}
	}
}

func (s *Server) stream(conn net.Conn) {
	defer conn.Close()
	var length [2]byte
	for {
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := s.answer(query, false)
		binary.BigEndian.PutUint16(length[:], uint16(len(answer)))
		if _, err := conn.Write(append(length[:], answer...)); err != nil {
			return
		}
	}
}

func (s *Server) answer(query []byte, datagram bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.asked = append(s.asked, name)
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if _, known := s.zone[name]; !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for seen := 0; seen < 20; seen++ {
		next := ""
		for _, record := range s.zone[name] {
			kind, value, _ := strings.Cut(record, " ")
			body, t := s.body(kind, value)
			if kind == "CNAME" {
				next = value
			}
			if t == q.Type || kind == "CNAME" {
				owner := dnsmessage.MustNewName(name + ".")
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: owner, Type: t, Class: dnsmessage.ClassINET, TTL: 86400}, Body: body,
				})
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if datagram && s.cut {
		m.Truncated, m.Answers = true, nil
	}
	raw, err := m.Pack()
	if err != nil {
		return nil
	}
	return raw
}

func (s *Server) body(kind, value string) (dnsmessage.ResourceBody, dnsmessage.Type) {
	switch kind {
	case "A":
		return &dnsmessage.AResource{A: netip.MustParseAddr(value).As4()}, dnsmessage.TypeA
	case "AAAA":
		return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(value).As16()}, dnsmessage.TypeAAAA
	case "CNAME":
		return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(value + ".")}, dnsmessage.TypeCNAME
	default:
		return &dnsmessage.TXTResource{TXT: []string{value}}, dnsmessage.TypeTXT
	}
}
