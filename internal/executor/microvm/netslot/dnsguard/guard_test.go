package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard/dnstest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func zone() map[string][]string {
	z := map[string][]string{
		"ok.example.com":        {"A 5.5.5.1", "A 5.5.5.2", "AAAA 2001:db8::1", "TXT hello"},
		"www.example.com":       {"CNAME cdn.example.net"},
		"cdn.example.net":       {"CNAME edge.example.net"},
		"edge.example.net":      {"A 5.5.5.3"},
		"rebind.example.com":    {"A 10.0.0.1", "A 169.254.169.254", "A 127.0.0.1"},
		"half.example.com":      {"A 192.168.0.1", "A 5.5.5.4"},
		"sly.example.com":       {"CNAME inside.example.net"},
		"inside.example.net":    {"A 172.16.0.1"},
		"loop.example.com":      {"CNAME loop2.example.com"},
		"loop2.example.com":     {"CNAME loop.example.com"},
		"other.net":             {"A 5.5.5.9", "TXT other"},
		"db":                    {"A 5.5.5.9"},
		"printer.local":         {"A 5.5.5.9"},
		"1.0.0.10.in-addr.arpa": {"TXT inside"},
		"9.5.5.5.in-addr.arpa":  {"TXT outside"},
		"leak.example.com":      {"CNAME vault.corp"},
		"far.example.com":       {"CNAME leak.example.com"},
		"vault.corp":            {"TXT secret", "CNAME back.example.net"},
		"back.example.net":      {"TXT secret too"},
	}
	for i := range 100 {
		z["many.example.com"] = append(z["many.example.com"], fmt.Sprintf("A 5.6.0.%d", i+1))
	}
	return z
}

// setup is a guard before a double of the host's resolver.
type setup struct {
	*Guard
	upstream *dnstest.Server

	mu     sync.Mutex
	opened []netip.Addr
	fail   error
}

func isPublic(a netip.Addr) bool { return !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() }

func start(t *testing.T, names *nimbus.Names) *setup {
	t.Helper()
	s := &setup{upstream: dnstest.Serve(t, zone())}
	s.Guard = New(Config{
		Own:   map[string]netip.Addr{"gateway.corp.internal": netip.MustParseAddr("172.16.0.1")},
		Names: names, Public: isPublic, Upstream: func() ([]string, error) { return []string{s.upstream.Addr}, nil },
		Open: func(addresses []netip.Addr) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.opened = append(s.opened, addresses...)
			return s.fail
		},
	})
	return s
}

// query asks the guard, and returns what it says in words.
func (s *setup) query(t *testing.T, name string, kind dnsmessage.Type) (string, dnsmessage.Message) {
	t.Helper()
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions:   []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{extension("")},
	}
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := s.answer(t.Context(), raw, maxMessage)
	var got dnsmessage.Message
	if err := got.Unpack(answer); err != nil {
		t.Fatal(err)
	}
	if got.ID != 7 || !got.Response || len(got.Questions) != 1 || got.Questions[0] != m.Questions[0] {
		t.Errorf("it is no answer to the question: %+v", got.Header)
	}
	words := []string{strings.TrimPrefix(got.RCode.String(), "RCode")}
	for _, r := range got.Answers {
		if ttl := time.Duration(r.Header.TTL) * time.Second; ttl > MaxTTL || ttl < minTTL {
			t.Errorf("it may be kept for %v", ttl)
		}
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			words = append(words, netip.AddrFrom4(b.A).String())
		case *dnsmessage.CNAMEResource:
			words = append(words, "→"+b.CNAME.String())
		case *dnsmessage.TXTResource:
			words = append(words, strings.Join(b.TXT, ""))
		default:
			words = append(words, r.Header.Type.String())
		}
	}
	return strings.Join(words, " "), got
}

func TestNamesOnTheList(t *testing.T) {
	t.Parallel()
	names := nimbus.Names("*.example.com")
	s := start(t, &names)
	for _, try := range []struct {
		name string
		kind dnsmessage.Type
		want string
		open string
	}{
		{"ok.example.com", dnsmessage.TypeA, "Success 5.5.5.1 5.5.5.2", "5.5.5.1 5.5.5.2"},
		{"OK.Example.COM", dnsmessage.TypeA, "Success 5.5.5.1 5.5.5.2", "5.5.5.1 5.5.5.2"},
		{"ok.example.com", dnsmessage.TypeAAAA, "Success", ""},
		{"ok.example.com", dnsmessage.TypeTXT, "Success hello", ""},
		{"ok.example.com", 65, "Success", ""},                 // HTTPS
		{"ok.example.com", dnsmessage.TypeALL, "Success", ""}, // nobody needs all
		{"www.example.com", dnsmessage.TypeA, "Success →cdn.example.net. →edge.example.net. 5.5.5.3", "5.5.5.3"},
		{"www.example.com", dnsmessage.TypeCNAME, "Success →cdn.example.net.", ""},
		{"half.example.com", dnsmessage.TypeA, "Success 5.5.5.4", "5.5.5.4"},
		{"rebind.example.com", dnsmessage.TypeA, "NameError", ""},
		{"sly.example.com", dnsmessage.TypeA, "NameError", ""},
		{"leak.example.com", dnsmessage.TypeTXT, "NameError", ""},
		{"loop.example.com", dnsmessage.TypeA, "ServerFailure", ""},
		{"none.example.com", dnsmessage.TypeA, "NameError", ""},
		{"other.net", dnsmessage.TypeA, "NameError", ""},
		{"other.net", dnsmessage.TypeTXT, "NameError", ""},
		{"example.com", dnsmessage.TypeA, "NameError", ""},
		{"ok.example.com.other.net", dnsmessage.TypeA, "NameError", ""},
		{"edge.example.net", dnsmessage.TypeA, "NameError", ""}, // by the alias alone
	} {
		s.opened = nil
		got, m := s.query(t, try.name, try.kind)
		var open []string
		for _, a := range s.opened {
			open = append(open, a.String())
		}
		if got != try.want || strings.Join(open, " ") != try.open {
			t.Errorf("%s %v: %q, want %q; open %v", try.name, try.kind, got, try.want, open)
		}
		if try.name == "other.net" {
			checkExtended(t, m, "the job did not ask to reach this name")
		}
	}
	for _, asked := range s.upstream.Asked() {
		if !strings.HasSuffix(asked, "example.com") || asked == "example.com" {
			t.Errorf("upstream was asked for %s", asked)
		}
	}
	var refused []string
	for _, r := range s.Refused() {
		refused = append(refused, fmt.Sprintf("%s %d", r.Name, r.Count))
	}
	want := []string{"other.net 2", "edge.example.net 1", "example.com 1", "leak.example.com 1", "ok.example.com.other.net 1", "rebind.example.com 1", "sly.example.com 1"}
	if !slices.Equal(refused, want) {
		t.Errorf("refused %q, want %q", refused, want)
	}
}

func checkExtended(t *testing.T, m dnsmessage.Message, want string) {
	t.Helper()
	for _, r := range m.Additionals {
		if opt, ok := r.Body.(*dnsmessage.OPTResource); ok && len(opt.Options) == 1 && opt.Options[0].Code == optionExtendedError {
			if got := string(opt.Options[0].Data[2:]); got != want {
				t.Errorf("it says %q", got)
			}
			return
		}
	}
	t.Error("it does not say why")
}

func TestEveryName(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, try := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"other.net", dnsmessage.TypeA, "Success 5.5.5.9"},
		{"rebind.example.com", dnsmessage.TypeA, "NameError"},
		{"half.example.com", dnsmessage.TypeA, "Success 5.5.5.4"},
		{"db", dnsmessage.TypeA, "NameError"},
		{"printer.local", dnsmessage.TypeA, "NameError"},
		{"1.0.0.10.in-addr.arpa", dnsmessage.TypeTXT, "NameError"},
		{"9.5.5.5.in-addr.arpa", dnsmessage.TypeTXT, "Success outside"},
		{"x.in-addr.arpa", dnsmessage.TypeTXT, "NameError"},
		{"leak.example.com", dnsmessage.TypeTXT, "NameError"},
		{"far.example.com", dnsmessage.TypeTXT, "NameError"},
		{"far.example.com", dnsmessage.TypeA, "NameError"},
	} {
		if got, _ := s.query(t, try.name, try.kind); got != try.want {
			t.Errorf("%s: %q, want %q", try.name, got, try.want)
		}
	}
}

// TestFenceFirst keeps an answer back whose addresses could not be let through.
func TestFenceFirst(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.fail = errors.New("no")
	if got, _ := s.query(t, "ok.example.com", dnsmessage.TypeA); got != "ServerFailure" {
		t.Errorf("%q", got)
	}
}

// TestLongAnswers are cut to the bound, and to what a datagram holds.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if got, m := s.query(t, "many.example.com", dnsmessage.TypeA); len(m.Answers) != maxRecords {
		t.Errorf("%d answers: %s", len(m.Answers), got)
	}
	s.upstream.CutDatagrams() // it is asked again over TCP
	if got, _ := s.query(t, "ok.example.com", dnsmessage.TypeA); got != "Success 5.5.5.1 5.5.5.2" {
		t.Errorf("%q", got)
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("many.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := s.answer(t.Context(), raw, 0)
	if err := m.Unpack(answer); err != nil || len(answer) > plainDatagram || !m.Truncated || len(m.Answers) > 0 {
		t.Errorf("%d bytes, truncated %v, %v", len(answer), m.Truncated, err)
	}
}

// bothWays listens on one port over UDP and TCP. A port that is free over one
// may be somebody's over the other: then another is tried.
func bothWays(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", socket.LocalAddr().String())
		if err == nil {
			return socket, l
		}
		socket.Close()
	}
	t.Fatal("no port is free over UDP and TCP")
	return nil, nil
}

// TestServe asks over sockets, as guests do, and too much.
func TestServe(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	socket, l := bothWays(t)
	var done sync.WaitGroup
	done.Go(func() { s.ServeDatagrams(ctx, socket) })
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { s.ServeStream(ctx, conn) })
		}
	})
	defer done.Wait()
	defer l.Close()
	defer socket.Close()
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, socket.LocalAddr().String())
		}}
		got, err := r.LookupHost(t.Context(), "www.example.com.")
		if err != nil || !slices.Equal(got, []string{"5.5.5.3"}) {
			t.Errorf("%s: %v, %v", network, got, err)
		}
		var none *net.DNSError
		if _, err := r.LookupHost(t.Context(), "rebind.example.com."); !errors.As(err, &none) || !none.IsNotFound {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	b := bucket{tokens: rateBurst}
	now := time.Unix(1, 0)
	took := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	if n := took(); n != rateBurst {
		t.Errorf("%d at once", n)
	}
	now = now.Add(2 * time.Second)
	if n := took(); n != 2*rateLimit {
		t.Errorf("%d in two seconds", n)
	}
	now = now.Add(-time.Hour) // a clock that goes back
	if b.take(now) {
		t.Error("time that went back gave tokens")
	}
}

func TestRefusedIsBounded(t *testing.T) {
	t.Parallel()
	var refused tally
	for i := range 10 * maxRefused {
		refused.add(fmt.Sprintf("n%d.example.com\n", i), "no")
	}
	list := refused.list()
	if last := list[len(list)-1]; len(list) != maxRefused+1 || last.Name != "" || last.Count != 9*maxRefused {
		t.Errorf("%d kept, last %+v", len(list), last)
	}
	if strings.ContainsAny(list[0].Name, "\n") {
		t.Errorf("%q", list[0].Name)
	}
}

// FuzzAnswer sends anything: the guard says something short, or nothing.
func FuzzAnswer(f *testing.F) {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	raw, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("\x00\x07\x01\x00\x00\x02"))
	none := nimbus.Names("")
	g := New(Config{Names: &none, Public: isPublic})
	f.Fuzz(func(t *testing.T, raw []byte) {
		g.rate = bucket{tokens: rateBurst}
		if answer := g.answer(t.Context(), raw, 0); len(answer) > safeDatagram {
			t.Errorf("%d bytes", len(answer))
		}
	})
}

// FuzzRead gives an answer's reader anything that a resolver could send.
func FuzzRead(f *testing.F) {
	query, id, err := compose("a.example.com", dnsmessage.TypeA)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(query)
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, _, err := read(raw, query, id)
		if err == nil && len(a.records) > maxScanned {
			t.Errorf("%d records", len(a.records))
		}
	})
}

// TestOwnName: what the guard itself knows is answered, whatever may be asked for,
// and nobody else is asked.
func TestOwnName(t *testing.T) {
	t.Parallel()
	none := nimbus.Names("")
	for _, names := range []*nimbus.Names{nil, &none} {
		s := start(t, names)
		for name, want := range map[string]string{
			"gateway.corp.internal": "Success 172.16.0.1", "GATEWAY.Corp.internal": "Success 172.16.0.1", "other.corp.internal": "NameError",
		} {
			if got, _ := s.query(t, name, dnsmessage.TypeA); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q", name, got)
			}
		}
		if got, _ := s.query(t, "gateway.corp.internal", dnsmessage.TypeAAAA); got != "Success" {
			t.Errorf("its IPv6 address: %q", got)
		}
		if len(s.opened) > 0 {
			t.Errorf("let through the fence: %v", s.opened)
		}
	}
}
