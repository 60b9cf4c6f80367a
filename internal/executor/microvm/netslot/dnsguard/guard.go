// Package dnsguard is the resolver that a fenced guest has: it asks the host's
// own resolvers for it, and hands on no more than the guest may know.
//
//   - Of the network profile "names", only names on the list are answered, and
//     their addresses are let through the fence before the answer leaves.
//   - An address that is not public never passes, whoever's name stands for it
//     (DNS rebinding): a name must not open what the fence closes.
//   - There is no IPv6, so there are no IPv6 addresses.
//
// What a guest sends is the tenant's: messages, names, connections and rates
// are bounded. Nothing that came from elsewhere is handed on as it is: answers
// are built anew from what was understood.
package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nimbus-ci/nimbus"
)

const (
	// resolveTimeout bounds one question of the guest, with all that is asked
	// upstream for it.
	resolveTimeout = 6 * time.Second
	// maxLinks is how many aliases may stand between a name and its addresses,
	// and maxFollowed how often upstream is asked for the rest of them.
	maxLinks    = 16
	maxFollowed = 4
	// maxRecords bounds an answer. Names with more addresses are cut: any of
	// them does.
	maxRecords = 32
	// MaxTTL is how long a guest may keep an answer: what is let through the
	// fence for it stays longer than that.
	MaxTTL = 5 * time.Minute
	minTTL = 5 * time.Second
)

// Config is what a guard needs.
type Config struct {
	// Names are what may be asked for; nil means every name.
	Names *nimbus.Names
	// Own are names that the guard itself knows, whatever may be asked for.
	Own map[string]netip.Addr
	// Upstream lists the resolvers to ask, host:port, the best first.
	Upstream func() ([]string, error)
	// Public tells whether a guest may know of an address.
	Public func(netip.Addr) bool
	// Open lets addresses through the fence for longer than MaxTTL. The answer
	// leaves after it; with an error it does not leave. nil where the fence is
	// open.
	Open func([]netip.Addr) error
	Log  *slog.Logger
}

// Guard answers the questions of one guest.
type Guard struct {
	cfg     Config
	rate    bucket
	refused tally
}

// New returns a guard.
func New(cfg Config) *Guard {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Guard{cfg: cfg, rate: bucket{tokens: rateBurst}}
}

// answer makes the answer to a message of at most limit bytes; nil where there
// is none to give.
func (g *Guard) answer(ctx context.Context, message []byte, limit int) []byte {
	q, err := parse(message)
	if err != nil {
		return nil // not even an id to answer to
	}
	if limit == 0 {
		limit = q.datagram
	}
	return q.pack(g.reply(ctx, q), limit)
}

// reply is what there is to say to a question.
type reply struct {
	code    dnsmessage.RCode
	records []dnsmessage.Resource
	why     string // of a refusal, for who looks closely: an extended error
}

func (g *Guard) reply(ctx context.Context, q question) reply {
	name := normal(q.Name)
	switch {
	case q.malformed != dnsmessage.RCodeSuccess:
		return reply{code: q.malformed}
	case !g.rate.take(time.Now()):
		return reply{code: dnsmessage.RCodeRefused, why: "too many questions"}
	case g.cfg.Own[name].Is4():
		return g.own(q.Question, g.cfg.Own[name])
	case g.cfg.Names != nil && !g.cfg.Names.Match(name):
		return g.refuse(name, "the job did not ask to reach this name")
	case !g.askable(name):
		return g.refuse(name, "this name is not one of the internet")
	case !answered(q.Type):
		return reply{} // the name may well be, but has nothing of that type
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := g.resolve(ctx, name, q.Type)
	if errors.Is(err, errInside) {
		return g.refuse(name, "it stands for a name that is not one of the internet")
	}
	if err != nil {
		if ctx.Err() == nil {
			g.cfg.Log.DebugContext(ctx, "resolve", "name", name, "error", err)
		}
		return reply{code: dnsmessage.RCodeServerFailure}
	}
	if q.Type == dnsmessage.TypeA {
		return g.reveal(ctx, name, found)
	}
	return reply{code: found.code, records: slices.Concat(found.aliases, found.records)}
}

// own is the reply of a name that is the guard's.
func (g *Guard) own(q dnsmessage.Question, address netip.Addr) reply {
	if q.Type != dnsmessage.TypeA {
		return reply{}
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: uint32(MaxTTL.Seconds())}
	return reply{records: []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: address.As4()}}}}
}

// reveal keeps to itself what is not public, and opens the fence for the rest.
func (g *Guard) reveal(ctx context.Context, name string, found answer) reply {
	var open []netip.Addr
	records := found.aliases
	for _, r := range found.records {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			if address := netip.AddrFrom4(a.A); g.cfg.Public(address) {
				records, open = append(records, r), append(open, address)
			}
		}
	}
	if len(open) == 0 && len(found.records) > 0 {
		return g.refuse(name, "it stands for addresses that are not public")
	}
	if g.cfg.Open != nil && len(open) > 0 {
		if err := g.cfg.Open(open); err != nil {
			g.cfg.Log.WarnContext(ctx, "let addresses through the fence", "name", name, "error", err)
			return reply{code: dnsmessage.RCodeServerFailure}
		}
	}
	return reply{code: found.code, records: records}
}

// refuse says that there is no such name, which programs understand at once: at
// other codes they ask again.
func (g *Guard) refuse(name, why string) reply {
	g.refused.add(name, why)
	return reply{code: dnsmessage.RCodeNameError, why: why}
}

// Refused is what was refused so far.
func (g *Guard) Refused() []Refusal { return g.refused.list() }

// answered tells whether a type is passed on. AAAA is not: there is no IPv6.
// Neither are SVCB and HTTPS, which may carry addresses that nobody checked.
func answered(t dnsmessage.Type) bool {
	switch t {
	case dnsmessage.TypeA, dnsmessage.TypeCNAME, dnsmessage.TypeMX, dnsmessage.TypeNS, dnsmessage.TypePTR,
		dnsmessage.TypeSOA, dnsmessage.TypeSRV, dnsmessage.TypeTXT:
		return true
	default:
		return false
	}
}

// insideZones are never delegated in public: what the host's resolvers know of
// them is about the network that the host is in.
var insideZones = []string{"local", "localhost", "localdomain", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa", "ip6.arpa"}

// insideName tells whether a name can only be one of the host's own network.
func (g *Guard) insideName(name string) bool {
	if name == "" || !strings.Contains(name, ".") {
		return name != "" // the root has name servers; whole top levels are nobody's hosts
	}
	for _, zone := range insideZones {
		if name == zone || strings.HasSuffix(name, "."+zone) {
			return true
		}
	}
	reversed, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return false
	}
	parts := strings.Split(reversed, ".")
	slices.Reverse(parts)
	address, err := netip.ParseAddr(strings.Join(parts, "."))
	return err != nil || !g.cfg.Public(address)
}

// askable tells whether the host's resolvers may be asked for a name, or it may
// be where an alias leads: anybody's name can stand for one of the host's
// network, whose records are not for guests. Names on the list are.
func (g *Guard) askable(name string) bool {
	return g.cfg.Names != nil && g.cfg.Names.Match(name) || !g.insideName(name)
}

// normal is the form in which names are compared.
func normal(n dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(n.String(), "."))
}

// answer is what upstream knows of a name.
type answer struct {
	code    dnsmessage.RCode
	aliases []dnsmessage.Resource // from the name that was asked for, link by link
	records []dnsmessage.Resource // of the type that was asked for, of the last name
}

var (
	errLoop   = errors.New("its aliases have no end")
	errInside = errors.New("an alias leads to a name of the host's network")
)

// resolve asks for a name and follows its aliases, whose links must hold
// together: what else an answer brings is left.
func (g *Guard) resolve(ctx context.Context, name string, t dnsmessage.Type) (answer, error) {
	var a answer
	for range maxFollowed {
		got, err := g.ask(ctx, name, t)
		if err != nil {
			return a, err
		}
		a.code = got.code
		last, err := a.take(got.records, name, t)
		if err != nil {
			return a, err
		}
		if !g.askable(last) || slices.ContainsFunc(a.aliases, g.leadsInside) {
			return a, errInside
		}
		if last == name || len(a.records) > 0 || a.code != dnsmessage.RCodeSuccess || t == dnsmessage.TypeCNAME {
			return a, nil
		}
		name = last
	}
	return a, errLoop
}

func (g *Guard) leadsInside(alias dnsmessage.Resource) bool {
	target, ok := alias.Body.(*dnsmessage.CNAMEResource)
	return ok && !g.askable(normal(target.CNAME))
}

// take adds what an answer has on a name, and tells where its aliases lead.
func (a *answer) take(records []dnsmessage.Resource, name string, t dnsmessage.Type) (last string, err error) {
	for {
		i := slices.IndexFunc(records, func(r dnsmessage.Resource) bool {
			return r.Header.Type == dnsmessage.TypeCNAME && normal(r.Header.Name) == name
		})
		if i < 0 || t == dnsmessage.TypeCNAME {
			break
		}
		if len(a.aliases) == maxLinks {
			return name, errLoop
		}
		target, ok := records[i].Body.(*dnsmessage.CNAMEResource)
		if !ok {
			return name, fmt.Errorf("the alias of %s has no target", name)
		}
		a.aliases = append(a.aliases, records[i])
		name = normal(target.CNAME)
	}
	for _, r := range records {
		if r.Header.Type == t && normal(r.Header.Name) == name && len(a.records) < maxRecords {
			a.records = append(a.records, r)
		}
	}
	return name, nil
}
