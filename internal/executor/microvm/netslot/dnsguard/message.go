package dnsguard

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// plainDatagram is what fits a datagram of who does not say otherwise, and
	// safeDatagram what needs no fragments anywhere.
	plainDatagram = 512
	safeDatagram  = 1232
	// maxMessage is the most that a message can be, over TCP.
	maxMessage = 1<<16 - 1
)

// codeBlocked is the extended error of RFC 8914 for what a policy keeps back.
const (
	optionExtendedError = 15
	codeBlocked         = 15
)

// question is what a guest asks.
type question struct {
	dnsmessage.Question

	id        uint16
	recursion bool
	extended  bool             // it takes EDNS
	datagram  int              // how much a datagram to it may hold
	malformed dnsmessage.RCode // what is wrong with it
}

// parse reads a message. An error means that it is none, or an answer.
func parse(raw []byte) (question, error) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil {
		return question{}, err
	}
	if h.Response {
		return question{}, dnsmessage.ErrNotStarted
	}
	q := question{id: h.ID, recursion: h.RecursionDesired, datagram: plainDatagram}
	if h.OpCode != 0 {
		q.malformed = dnsmessage.RCodeNotImplemented
		return q, nil
	}
	q.malformed = q.read(&p)
	return q, nil
}

// read understands what is behind the header, and tells what is wrong with it.
func (q *question) read(p *dnsmessage.Parser) dnsmessage.RCode {
	all, err := p.AllQuestions()
	if err != nil || len(all) != 1 {
		return dnsmessage.RCodeFormatError
	}
	q.Question = all[0]
	if q.Class != dnsmessage.ClassINET {
		return dnsmessage.RCodeRefused
	}
	if err := q.extend(p); err != nil {
		return dnsmessage.RCodeFormatError
	}
	return dnsmessage.RCodeSuccess
}

// extend looks for what the asker says of itself, behind the question.
func (q *question) extend(p *dnsmessage.Parser) error {
	if err := p.SkipAllAnswers(); err != nil {
		return err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return err
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type == dnsmessage.TypeOPT {
			q.extended = true
			q.datagram = min(max(int(h.Class), plainDatagram), safeDatagram)
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}

// pack writes an answer of at most limit bytes. What does not fit is left, and
// said to be missing: the guest asks again over TCP.
func (q *question) pack(r reply, limit int) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: q.id, Response: true, RecursionDesired: q.recursion, RecursionAvailable: true, RCode: r.code},
	}
	if q.Type != 0 {
		m.Questions = []dnsmessage.Question{q.Question}
	}
	for _, record := range r.records {
		ttl := time.Duration(record.Header.TTL) * time.Second
		record.Header.TTL = uint32(min(max(ttl, minTTL), MaxTTL).Seconds())
		m.Answers = append(m.Answers, record)
	}
	if q.extended {
		m.Additionals = []dnsmessage.Resource{extension(r.why)}
	}
	raw, err := m.Pack()
	if err != nil { // a name that can't be written
		m.Answers, m.RCode = nil, dnsmessage.RCodeServerFailure
		raw, err = m.Pack()
	}
	if err == nil && len(raw) > limit {
		m.Answers, m.Truncated = nil, true
		raw, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return raw
}

// extension is what an answer says of itself.
func extension(why string) dnsmessage.Resource {
	var r dnsmessage.Resource
	// It fails for a code that has no room, and success has.
	_ = r.Header.SetEDNS0(safeDatagram, dnsmessage.RCodeSuccess, false)
	body := &dnsmessage.OPTResource{}
	if why != "" {
		body.Options = []dnsmessage.Option{{Code: optionExtendedError, Data: append(binary.BigEndian.AppendUint16(nil, codeBlocked), why...)}}
	}
	r.Body = body
	return r
}
