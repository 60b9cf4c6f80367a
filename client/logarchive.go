package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// ImportedLogs is what an import brought back.
type ImportedLogs struct {
	Attempts int   `json:"attempts"`
	Lines    int64 `json:"lines"`
	Lost     int64 `json:"lost,omitempty"` // could not be read when they were exported: the logs say which
	Skipped  int   `json:"skipped"`        // have a log already, which was left as it is
}

// ExportLogs writes an archive of the org's logs, packed, and says how many of them are
// damaged on the server: in the archive these say which of their lines could not be
// read. Codes: forbidden.
func (c *Client) ExportLogs(ctx context.Context, to io.Writer) (damaged int, err error) {
	answer, err := c.do(ctx, http.MethodGet, "/api/v1/logs/export", nil, nil, nil)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(to, answer.Body); err != nil {
		return 0, nimbus.Errorf(nimbus.CodeUnavailable, "the archive broke off: %w", wire.Unreachable(err))
	}
	if text := answer.Trailer.Get("Nimbus-Damaged-Logs"); text != "" {
		if damaged, err = strconv.Atoi(text); err != nil {
			return 0, nimbus.Errorf(nimbus.CodeUnavailable, "the archive's end is not understood: %w", err)
		}
	}
	return damaged, nil
}

// ImportLogs brings an archive of the org's logs back. What is there stays as it is.
// Codes: forbidden, invalid, conflict.
func (c *Client) ImportLogs(ctx context.Context, archive io.Reader) (done ImportedLogs, err error) {
	header := http.Header{"Content-Type": {"application/zstd"}}
	answer, err := c.do(ctx, http.MethodPost, "/api/v1/logs/import", nil, header, archive)
	if err != nil {
		return done, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answer.Body, 64<<10)).Decode(&done); err != nil {
		return done, nimbus.Errorf(nimbus.CodeUnavailable, "the answer broke off: %w", wire.Unreachable(err))
	}
	return done, nil
}
