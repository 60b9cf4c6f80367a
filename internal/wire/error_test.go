package wire

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

// codes reads all codes from where they are declared, so that a new one can't
// be forgotten here.
func codes(t *testing.T) []nimbus.Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []nimbus.Code
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Code" {
			return true
		}
		for _, v := range spec.Values {
			literal, ok := v.(*ast.BasicLit)
			if !ok {
				t.Fatalf("a code that is no literal: %v", v)
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, nimbus.Code(text))
		}
		return true
	})
	if len(out) < 12 {
		t.Fatalf("only %v were found", out)
	}
	return out
}

// meant is what of an error a caller must get, whichever way it came.
type meant struct {
	Code          nimbus.Code
	Message, Hint string
	RetryAfter    time.Duration
}

func meantBy(err error) meant {
	return meant{nimbus.ErrorCode(err), err.Error(), nimbus.ErrorHint(err), nimbus.ErrorRetryAfter(err)}
}

func TestEveryCodeArrives(t *testing.T) {
	t.Parallel()
	for _, code := range codes(t) {
		sent := &nimbus.Error{Code: code, Message: "what went wrong", Hint: `try “that” & this`, RetryAfter: 1500 * time.Millisecond}
		want := meant{code, sent.Message, sent.Hint, 2 * time.Second}
		wrapped := fmt.Errorf("do: %w", sent)
		if diff := cmp.Diff(want, meantBy(ToError(Error(wrapped)))); diff != "" {
			t.Errorf("over Connect (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, meantBy(overHTTP(wrapped))); diff != "" {
			t.Errorf("over HTTP (-want +got):\n%s", diff)
		}
	}
}

func overHTTP(err error) error {
	w := httptest.NewRecorder()
	WriteHTTPError(w, err)
	return ToHTTPError(w.Result())
}

// TestFaultsOfOursStayHere: what is no error for callers tells them nothing.
func TestFaultsOfOursStayHere(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{errors.New("secret of ours"), &nimbus.Error{Code: "a code of nobody", Message: "secret of ours"}} {
		want := meant{Code: nimbus.CodeInternal, Message: "internal error"}
		if diff := cmp.Diff(want, meantBy(ToError(Error(fault)))); diff != "" {
			t.Errorf("over Connect (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, meantBy(overHTTP(fault))); diff != "" {
			t.Errorf("over HTTP (-want +got):\n%s", diff)
		}
	}
}

// TestAnswersOfOthers are what proxies and Connect itself say.
func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	for code, want := range map[connect.Code]nimbus.Code{
		connect.CodeInvalidArgument: nimbus.CodeInvalid, connect.CodeUnauthenticated: nimbus.CodeUnauthenticated,
		connect.CodeAborted: nimbus.CodeConflict, connect.CodeResourceExhausted: nimbus.CodeRateLimited,
		connect.CodeUnavailable: nimbus.CodeUnavailable, connect.CodeDeadlineExceeded: nimbus.CodeUnavailable,
		connect.CodeDataLoss: nimbus.CodeInternal,
	} {
		if got := nimbus.ErrorCode(ToError(connect.NewError(code, errors.New("x")))); got != want {
			t.Errorf("%s means %q, want %q", code, got, want)
		}
	}
	for status, want := range map[int]nimbus.Code{
		http.StatusBadGateway: nimbus.CodeUnavailable, http.StatusConflict: nimbus.CodeConflict,
		http.StatusRequestEntityTooLarge: nimbus.CodeTooLarge, http.StatusTeapot: nimbus.CodeInternal,
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Retry-After", "99999999")
		w.WriteHeader(status)
		_, _ = w.WriteString("<html>of a proxy")
		err := ToHTTPError(w.Result())
		if got := nimbus.ErrorCode(err); got != want {
			t.Errorf("%d means %q, want %q", status, got, want)
		}
		if wait := nimbus.ErrorRetryAfter(err); wait != maxRetryAfter {
			t.Errorf("a wait of %s is believed", wait)
		}
	}
	if ToError(nil) != nil {
		t.Error("no error became one")
	}
}

func TestCheckServer(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"https://nimbus.example.com": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true, "http://localhost": true,
		"http://nimbus.example.com": false, "http://10.0.0.1": false, "http://localhost.example.com": false, "http://127.0.0.1.example.com": false,
		"ftp://127.0.0.1": false, "127.0.0.1:8080": false, "": false, "https://": false,
	} {
		if _, err := CheckServer(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		} else if err != nil && (nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "") {
			t.Errorf("%q: no word of what to do: %v", address, err)
		}
	}
}
