package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// archiveWindow bounds what unpacking an archive takes.
const archiveWindow = 8 << 20

// damagedLogs is how many logs of an export are damaged: a trailer, since that is known
// once they were read.
const damagedLogs = "Nimbus-Damaged-Logs"

// exportLogs answers all logs of the org, packed (zstd).
func (a *api) exportLogs(w http.ResponseWriter, r *http.Request) error {
	store, ok := a.Logs.(interface {
		logs.Reader
		logs.Looker
	})
	if !ok {
		return nimbus.Errorf(nimbus.CodeUnavailable, "this server's logs can't be exported")
	}
	w.Header().Set("Content-Type", "application/zstd")
	out, err := zstd.NewWriter(patientWriter{w, http.NewResponseController(w)}, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(archiveWindow/8))
	if err != nil {
		return err
	}
	w.Header().Set("Trailer", damagedLogs)
	done, err := logs.Export(r.Context(), store, callerOf(r.Context()).org, out, a.Log)
	if err != nil {
		return err // it has no end: who reads it knows that it is not whole
	}
	if done.Damaged > 0 {
		w.Header().Set(damagedLogs, strconv.Itoa(done.Damaged))
	}
	return out.Close()
}

// importLogs takes an archive of the org's logs.
func (a *api) importLogs(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r.Context())
	if _, underWay := a.importing.LoadOrStore(c.org, true); underWay {
		return nimbus.Errorf(nimbus.CodeConflict, "another import of the org's logs is under way").WithHint("wait for its end")
	}
	defer a.importing.Delete(c.org)
	in, err := zstd.NewReader(patientReader{r.Body, http.NewResponseController(w)}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(archiveWindow))
	if err != nil {
		return err
	}
	defer in.Close()
	done, err := logs.Import(r.Context(), a.Logs, c.org, in, func(ctx context.Context, attempt string) error {
		return a.LogBooks.MayImportLog(ctx, c.org, attempt)
	})
	if done.Attempts > 0 || err == nil {
		err = errors.Join(err, a.LogBooks.RecordLogImport(context.WithoutCancel(r.Context()), nimbus.AuditEvent{
			OrgID: c.org, Actor: c.Actor(), Action: "logs.import", Target: c.org, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"attempts": strconv.Itoa(done.Attempts), "lines": strconv.FormatInt(done.Lines, 10)},
		}))
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, done)
}

// patientWriter waits for a reader as long as each part takes, within slowReader.
type patientWriter struct {
	http.ResponseWriter

	rc *http.ResponseController
}

func (w patientWriter) Write(p []byte) (int, error) {
	if err := w.rc.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
		return 0, fmt.Errorf("bound the reader's time: %w", err)
	}
	return w.ResponseWriter.Write(p)
}

// patientReader is the same of who sends.
type patientReader struct {
	io.Reader

	rc *http.ResponseController
}

func (r patientReader) Read(p []byte) (int, error) {
	if err := r.rc.SetReadDeadline(time.Now().Add(slowReader)); err != nil {
		return 0, fmt.Errorf("bound the sender's time: %w", err)
	}
	return r.Reader.Read(p)
}
