package httpapi_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

//go:generate go test -run TestErrorsAreDescribed -update .

// update describes errors in what buf has generated: go generate ./internal/httpapi.
var update = flag.Bool("update", false, "write docs/api/openapi.yaml anew")

const descriptionFile = "../../docs/api/openapi.yaml"

// refusal is what a caller gets of one of our codes.
type refusal struct {
	code    nimbus.Code
	meaning string
	status  int
	body    string // the code in the body
}

// codeLine is a line of error.go that declares a code and says what it means.
var codeLine = regexp.MustCompile(`(?m)^\tCode\w+\s+Code = "(\w+)"\s+// (.+)$`)

// refusals are all of them, by status: meant by what declares the codes, and
// told by what writes the answers.
func refusals(t *testing.T) (out []refusal) {
	t.Helper()
	source, err := os.ReadFile("../../error.go")
	must(t, err)
	for _, m := range codeLine.FindAllStringSubmatch(string(source), -1) {
		r := refusal{code: nimbus.Code(m[1]), meaning: m[2]}
		if r.code == nimbus.CodeCancelled {
			continue // nobody is there to read it
		}
		w := httptest.NewRecorder()
		asked := httptest.NewRequest(http.MethodPost, "/", nil)
		asked.Header.Set("Content-Type", "application/json")
		must(t, connect.NewErrorWriter().Write(w, asked, wire.Error(nimbus.Errorf(r.code, "x"))))
		var body struct {
			Code string `json:"code"`
		}
		must(t, json.Unmarshal(w.Body.Bytes(), &body))
		r.status, r.body = w.Code, body.Code
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b refusal) int { return cmp.Compare(a.status, b.status) })
	return out
}

// Marks of what describe adds, so that it can be written anew.
const (
	marked = "  # Errors are described by internal/httpapi/description_test.go, from the table that answers are made by.\n"
	unmark = "  # End of errors.\n"
)

var (
	oldResponses = regexp.MustCompile(regexp.QuoteMeta(marked) + `(?s:.*?)` + regexp.QuoteMeta(unmark))
	oldReference = regexp.MustCompile(`(?m)^        "\d+":\n          \$ref: '#/components/responses/.*'\n`)
	genericError = regexp.MustCompile(`(?m)^    connect\.error:\n(?:      .*\n|\n)+`)
	errorDetail  = regexp.MustCompile(`(?m)^    connect\.error_details\.Any:\n(?:      .*\n|\n)+`)
	otherErrors  = "        default:\n          description: Error\n"
)

// describe adds to the generated description what errors calls have: the
// generator knows of one for all, with details that Nimbus never sends.
func describe(generated string, all []refusal) string {
	var responses, references strings.Builder
	codes := []string{}
	for len(all) > 0 {
		status, same := all[0].status, 0
		for same < len(all) && all[same].status == status {
			same++
		}
		writeResponse(&responses, all[:same])
		fmt.Fprintf(&references, "        \"%d\":\n          $ref: '#/components/responses/Error%d'\n", status, status)
		for _, r := range all[:same] {
			if !slices.Contains(codes, r.body) {
				codes = append(codes, r.body)
			}
		}
		all = all[same:]
	}
	out := oldReference.ReplaceAllLiteralString(oldResponses.ReplaceAllLiteralString(generated, ""), "")
	out = errorDetail.ReplaceAllLiteralString(out, "")
	out = genericError.ReplaceAllLiteralString(out, fmt.Sprintf(`    connect.error:
      type: object
      title: Error
      description: What went wrong, in Connect's words. Nimbus' own code, which tells more apart, and its hint are in the headers.
      required:
        - code
        - message
      properties:
        code:
          type: string
          description: Connect's code. A call that the server does not have is answered with 404 and unimplemented.
          enum:
            - %s
        message:
          type: string
          minLength: 1
          description: One sentence for people.
      additionalProperties: false
`, strings.Join(codes, "\n            - ")))
	out = strings.Replace(out, "components:\n", "components:\n"+marked+"  responses:\n"+responses.String()+unmark, 1)
	return strings.ReplaceAll(out, otherErrors, references.String()+otherErrors)
}

func writeResponse(w *strings.Builder, same []refusal) {
	var meanings, codes []string
	for _, r := range same {
		meanings = append(meanings, fmt.Sprintf("`%s`: %s.", r.code, r.meaning))
		codes = append(codes, string(r.code))
	}
	fmt.Fprintf(w, "    Error%d:\n      description: %q\n      headers:\n", same[0].status, strings.Join(meanings, " "))
	header := func(name string, required bool, about, schema string) {
		fmt.Fprintf(w, "        %s:\n          description: %s\n          required: %v\n          schema:\n%s", name, about, required, schema)
	}
	header(wire.CodeHeader, true, "Nimbus' own code.", "            type: string\n            enum:\n              - "+strings.Join(codes, "\n              - ")+"\n")
	header(wire.HintHeader, false, "What to do next, URL-encoded.", "            type: string\n")
	header("Nimbus-Request", true, "The id under which the server's log has the request.", "            type: string\n")
	if same[0].status == http.StatusTooManyRequests || same[0].status == http.StatusServiceUnavailable {
		header("Retry-After", false, "How many seconds to wait, where that is known.", "            type: integer\n            minimum: 0\n")
	}
	w.WriteString("      content:\n        application/json:\n          schema:\n            $ref: '#/components/schemas/connect.error'\n")
}

// TestErrorsAreDescribed: every call has every error that it may answer, and
// nothing else is described.
func TestErrorsAreDescribed(t *testing.T) {
	t.Parallel()
	all := refusals(t)
	if len(all) < 10 {
		t.Fatalf("only %d codes are found in error.go", len(all))
	}
	raw, err := os.ReadFile(descriptionFile)
	must(t, err)
	want := describe(string(raw), all)
	if *update {
		must(t, os.WriteFile(descriptionFile, []byte(want), 0o644))
		return
	}
	if want != string(raw) {
		t.Fatal("docs/api/openapi.yaml does not describe the errors that there are: go generate ./internal/httpapi")
	}
	d := readDescription(t)
	for _, procedure := range httpapi.Procedures() {
		for _, r := range all {
			if _, ok := d.headers[procedure][fmt.Sprint(r.status)]; !ok {
				t.Errorf("%s: %d is not described", procedure, r.status)
			}
		}
	}
}

// description is what the published description says of errors.
type description struct {
	body *jsonschema.Schema
	// headers are those of each answer, by path and status.
	headers map[string]map[string]map[string]describedHeader
}

type describedHeader struct {
	required bool
	schema   *jsonschema.Schema
}

// published is read once.
var published = sync.OnceValues(loadDescription)

func readDescription(t *testing.T) description {
	t.Helper()
	d, err := published()
	must(t, err)
	return d
}

func loadDescription() (d description, err error) {
	raw, err := os.ReadFile(descriptionFile)
	if err != nil {
		return d, err
	}
	if raw, err = yaml.YAMLToJSON(raw); err != nil {
		return d, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return d, err
	}
	const at = "https://nimbus.invalid/openapi.json"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(at, doc); err != nil {
		return d, err
	}
	if d.body, err = c.Compile(at + "#/components/schemas/connect.error"); err != nil {
		return d, err
	}
	var told struct {
		Components struct {
			Responses map[string]struct {
				Headers map[string]struct {
					Required bool `json:"required"`
				} `json:"headers"`
			} `json:"responses"`
		} `json:"components"`
		Paths map[string]struct {
			Post struct {
				Responses map[string]struct {
					Ref string `json:"$ref"`
				} `json:"responses"`
			} `json:"post"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(raw, &told); err != nil {
		return d, err
	}
	d.headers = map[string]map[string]map[string]describedHeader{}
	for path, item := range told.Paths {
		d.headers[path] = map[string]map[string]describedHeader{}
		for status, response := range item.Post.Responses {
			name, ok := strings.CutPrefix(response.Ref, "#/components/responses/")
			if !ok {
				continue
			}
			d.headers[path][status] = map[string]describedHeader{}
			for header, h := range told.Components.Responses[name].Headers {
				schema, err := c.Compile(at + response.Ref + "/headers/" + header + "/schema")
				if err != nil {
					return d, err
				}
				d.headers[path][status][header] = describedHeader{h.Required, schema}
			}
		}
	}
	return d, nil
}

// check holds an answer that is an error against the description. Calls that
// are not described are not looked at: TestErrorsAreDescribed misses them.
func (d description) check(path string, got answer) error {
	path, _, _ = strings.Cut(path, "?")
	statuses, described := d.headers[path]
	if got.status < http.StatusBadRequest || !described {
		return nil
	}
	headers, ok := statuses[fmt.Sprint(got.status)]
	if !ok {
		return fmt.Errorf("%s answers %d, which is not described", path, got.status)
	}
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(got.body))
	if err == nil {
		err = d.body.Validate(body)
	}
	if err != nil {
		return fmt.Errorf("%s answers %d with %s: %w", path, got.status, got.body, err)
	}
	for name, h := range headers {
		value := got.header.Get(name)
		switch {
		case value == "" && h.required:
			return fmt.Errorf("%s answers %d without the header %s", path, got.status, name)
		case value == "":
		case name == "Retry-After":
			err = h.schema.Validate(json.Number(value))
		default:
			err = h.schema.Validate(value)
		}
		if err != nil {
			return fmt.Errorf("%s answers %d with %s: %s: %w", path, got.status, name, value, err)
		}
	}
	return nil
}

// TestErrorsAreAsDescribed: what a running server answers to calls that fail.
// Every other test of this package has its answers checked too, see ask.
func TestErrorsAreAsDescribed(t *testing.T) {
	t.Parallel()
	p, d := startPlane(t), readDescription(t)
	const getJob = "/nimbus.v1.JobService/GetJob"
	job := p.submit(t)
	seen := map[int]bool{}
	for what, got := range map[string]struct {
		path string
		answer
	}{
		"wrong":        {getJob, p.asAdmin(t, http.MethodPost, getJob, `{"x":1}`)},
		"no token":     {getJob, p.ask(t, http.MethodPost, getJob, `{}`)},
		"not found":    {getJob, p.asAdmin(t, http.MethodPost, getJob, `{"jobId":"`+nimbus.NewID(nimbus.PrefixJob, time.Now())+`"}`)},
		"not a host":   {"/nimbus.v1.AgentService/Poll", p.asAdmin(t, http.MethodPost, "/nimbus.v1.AgentService/Poll", `{}`)},
		"its state":    {"/nimbus.v1.JobService/RerunJob", p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/RerunJob", `{"jobId":"`+job.ID+`"}`)},
		"over a bound": {getJob, p.asAdmin(t, http.MethodPost, getJob, `{"jobId":"`+strings.Repeat("x", 9<<20)+`"}`)},
	} {
		seen[got.status] = true
		if got.status < http.StatusBadRequest {
			t.Errorf("%s: it does not fail: %s", what, got.body)
		}
		if err := d.check(got.path, got.answer); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, status := range []int{400, 401, 403, 404, 409, 429} {
		if !seen[status] {
			t.Errorf("no call failed with %d", status)
		}
	}
	for what, bad := range map[string]answer{
		"another status": {418, `{"code":"not_found","message":"x"}`, http.Header{}},
		"no code":        {404, `{"code":"not_found","message":"x"}`, http.Header{"Nimbus-Request": {"x"}}},
		"another code":   {404, `{"code":"not_found","message":"x"}`, http.Header{"Nimbus-Request": {"x"}, wire.CodeHeader: {"invalid"}}},
		"no sentence":    {404, `{"code":"not_found"}`, http.Header{"Nimbus-Request": {"x"}, wire.CodeHeader: {"not_found"}}},
		"a page":         {404, `<html>`, http.Header{"Nimbus-Request": {"x"}, wire.CodeHeader: {"not_found"}}},
	} {
		if d.check(getJob, bad) == nil {
			t.Errorf("%s is taken for what is described", what)
		}
	}
}
