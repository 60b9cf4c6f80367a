package audit

import (
	"context"
	"crypto/ed25519"
	"strconv"

	"github.com/nimbus-ci/nimbus"
)

// PublicKey verifies the ledger's checkpoints.
func (l *Ledger) PublicKey() ed25519.PublicKey {
	key, _ := l.key.Public().(ed25519.PublicKey) // it always is
	return key
}

// Entries lists entries of an org's chain ("" for the platform's). Codes: invalid.
func (l *Ledger) Entries(ctx context.Context, orgID string, f nimbus.AuditFilter, page nimbus.PageRequest) (entries []nimbus.AuditEntry, next string, err error) {
	after, size, err := position(page)
	if err != nil {
		return nil, "", err
	}
	if entries, err = l.store.AuditEntries(ctx, orgID, f, after, size+1); err != nil {
		return nil, "", err
	}
	if len(entries) > size {
		entries = entries[:size]
		next = token(entries[size-1].Seq)
	}
	return entries, next, nil
}

// Checkpoints lists the checkpoints of an org's chain, the oldest first. Codes:
// invalid.
func (l *Ledger) Checkpoints(ctx context.Context, orgID string, page nimbus.PageRequest) (checkpoints []nimbus.AuditCheckpoint, next string, err error) {
	after, size, err := position(page)
	if err != nil {
		return nil, "", err
	}
	if checkpoints, err = l.store.AuditCheckpoints(ctx, orgID, after, size+1); err != nil {
		return nil, "", err
	}
	if len(checkpoints) > size {
		checkpoints = checkpoints[:size]
		next = token(checkpoints[size-1].Seq)
	}
	return checkpoints, next, nil
}

// token is the page token behind a number.
func token(seq int64) string {
	if seq == 0 {
		return ""
	}
	return strconv.FormatInt(seq, 10)
}

// position is where a page begins, and its size.
func position(page nimbus.PageRequest) (after int64, size int, err error) {
	size = min(page.Size, nimbus.MaxAuditPage)
	if size <= 0 {
		size = nimbus.DefaultPageSize
	}
	if page.Token != "" {
		if after, err = strconv.ParseInt(page.Token, 10, 64); err != nil || after < 1 {
			return 0, 0, nimbus.Errorf(nimbus.CodeInvalid, "the page token is not one of ours")
		}
	}
	return after, size, nil
}

// KeyPEM is PublicKey as people keep it.
func (l *Ledger) KeyPEM() (string, error) {
	text, err := EncodeKey(l.PublicKey())
	return string(text), err
}
