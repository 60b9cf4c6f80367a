// Package apidesc holds GitHub's own descriptions of its REST API and of its
// webhooks, and checks calls and bodies against them. See README.md for where
// they come from. They are parsed at the first use, once per process.
package apidesc

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed github-openapi.json.gz
var restGz []byte

//go:embed github-webhooks-openapi.json.gz
var webhooksGz []byte

// rest and webhooks are never written to after they are made.
var (
	rest     = sync.OnceValues(loadREST)
	webhooks = sync.OnceValues(loadWebhooks)
)

// Operation is one operation of the REST API.
type Operation struct {
	ID     string // "actions/get-job-for-workflow-run"
	Method string
	Path   string // "/repos/{owner}/{repo}/…", a pattern of http.ServeMux too
	route  *routers.Route
}

// Operations returns all that the description has.
func Operations() ([]Operation, error) {
	doc, err := rest()
	if err != nil {
		return nil, err
	}
	var out []Operation
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			out = append(out, Operation{
				ID: op.OperationID, Method: method, Path: path,
				route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op},
			})
		}
	}
	return out, nil
}

// Call is a request that is checked with its answer. Its body is given apart,
// so that neither check consumes it.
type Call struct {
	input *openapi3filter.RequestValidationInput
	op    Operation
}

// CheckRequest checks path, query, headers and body of a request. The Call is
// good for CheckResponse whatever the error.
func (o Operation) CheckRequest(ctx context.Context, r *http.Request, params map[string]string, body []byte) (*Call, error) {
	r = r.Clone(ctx)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		r.Body = http.NoBody
	}
	c := &Call{op: o, input: &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: o.route,
		Options: &openapi3filter.Options{
			SkipSettingDefaults: true,
			AuthenticationFunc:  openapi3filter.NoopAuthenticationFunc, // the double's own business
		},
	}}
	if err := openapi3filter.ValidateRequest(ctx, c.input); err != nil {
		return c, fmt.Errorf("%s: request: %w", o.ID, err)
	}
	return c, nil
}

// undocumented are statuses that GitHub gives everywhere and describes only
// here and there.
var undocumented = map[int]bool{401: true, 403: true, 404: true, 429: true, 500: true, 502: true, 503: true}

// CheckResponse checks an answer to the call. An error status that the
// description leaves out must carry a message, as GitHub's do.
func (c *Call) CheckResponse(ctx context.Context, status int, header http.Header, body []byte) error {
	if c.op.route.Operation.Responses.Status(status) == nil && undocumented[status] {
		var in struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(body, &in) != nil || in.Message == "" {
			return fmt.Errorf("%s: answer %d has no message", c.op.ID, status)
		}
		return nil
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: c.input, Status: status, Header: header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	input.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(ctx, input); err != nil {
		return fmt.Errorf("%s: answer %d: %w", c.op.ID, status, err)
	}
	return nil
}

// CheckWebhook checks a webhook's body against the schema of its event and
// action ("" for an event without).
func CheckWebhook(event, action string, body []byte) error {
	schemas, err := webhooks()
	if err != nil {
		return err
	}
	name := "webhook-" + strings.ReplaceAll(event, "_", "-")
	if action != "" {
		name += "-" + strings.ReplaceAll(action, "_", "-")
	}
	schema, ok := schemas[name]
	if !ok {
		return fmt.Errorf("%s: no such webhook", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func loadREST() (*openapi3.T, error) {
	b, err := unzip(restGz)
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		return nil, fmt.Errorf("load the REST description: %w", err)
	}
	return doc, nil
}

// loadWebhooks compiles every schema called webhook-…; the description is
// OpenAPI 3.1, whose schemas are JSON Schema 2020-12.
func loadWebhooks() (map[string]*jsonschema.Schema, error) {
	b, err := unzip(webhooksGz)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read the webhook description: %w", err)
	}
	const url = "https://api.github.com/webhooks.json"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	// The library's own check takes GitHub's {/sha} for unbalanced braces.
	c.RegisterFormat(&jsonschema.Format{Name: "uri-template", Validate: checkTemplate})
	if err := c.AddResource(url, doc); err != nil {
		return nil, fmt.Errorf("load the webhook description: %w", err)
	}
	var names struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(b, &names); err != nil {
		return nil, fmt.Errorf("read the webhook description: %w", err)
	}
	schemas := map[string]*jsonschema.Schema{}
	for name := range names.Components.Schemas {
		if !strings.HasPrefix(name, "webhook-") {
			continue
		}
		if schemas[name], err = c.Compile(url + "#/components/schemas/" + name); err != nil {
			return nil, fmt.Errorf("compile %s: %w", name, err)
		}
	}
	if len(schemas) == 0 {
		return nil, errors.New("the webhook description has no schemas")
	}
	return schemas, nil
}

// checkTemplate wants an address whose braces, if any, come in pairs.
func checkTemplate(v any) error {
	s, ok := v.(string)
	if !ok {
		return nil // another keyword's business
	}
	plain := regexp.MustCompile(`\{[/?&#+.;]?[a-z_,]+\}`).ReplaceAllString(s, "")
	if strings.ContainsAny(plain, "{} ") {
		return errors.New("no URI template")
	}
	return nil
}

func unzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("unzip description: %w", err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unzip description: %w", err)
	}
	return out, nil
}
