package forge

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Credentials are what an App is called with.
type Credentials struct {
	AppID         int64
	PrivateKey    []byte // PEM
	WebhookSecret []byte
}

// Manifest describes an App that is to be made, in the form that GitHub's page
// takes (https://docs.github.com/apps/sharing-github-apps/registering-a-github-app-from-a-manifest).
// GitHub sends the browser to redirect with a code when the person has agreed.
// orgRunners asks for what registering runners with organisations takes.
func Manifest(name, webhook, redirect string, orgRunners bool) ([]byte, error) {
	hook, err := url.Parse(webhook)
	if err != nil || hook.Host == "" || hook.Scheme != "https" && hook.Scheme != "http" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no address that GitHub could send webhooks to", webhook)
	}
	return json.Marshal(map[string]any{
		"name": name, "url": hook.Scheme + "://" + hook.Host, "redirect_url": redirect, "public": false,
		"description":         "Runs the jobs of workflows on machines of our own.",
		"hook_attributes":     map[string]any{"url": webhook, "active": true},
		"default_permissions": needs(orgRunners), "default_events": events(),
	})
}

// ManifestPage is where a person makes the App: at GitHub for the person or an
// organisation, or at the GitHub Enterprise Server whose API is at api.
func ManifestPage(api, organization string) (string, error) {
	if organization != "" && !ownerName.MatchString(organization) {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q is no organisation's name", organization)
	}
	base, err := webAddress(api)
	if err != nil {
		return "", err
	}
	if organization != "" {
		return base + "/organizations/" + organization + "/settings/apps/new", nil
	}
	return base + "/settings/apps/new", nil
}

var ownerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,38}$`)

// webAddress is where the pages are that belong to an API.
func webAddress(api string) (string, error) {
	api = APIURL(api)
	if err := checkAPI(api); err != nil {
		return "", err
	}
	u, err := url.Parse(api)
	if err != nil {
		return "", fmt.Errorf("read the address of the API: %w", err)
	}
	if host, ok := strings.CutPrefix(u.Host, "api."); ok && u.Path == "" { // github.com, and ghe.com
		return u.Scheme + "://" + host, nil
	}
	return u.Scheme + "://" + u.Host, nil // GitHub Enterprise Server: https://HOST/api/v3
}

// ConvertManifest trades the code that GitHub sent the browser back with for
// the App's credentials. A code works once, for an hour. Codes: invalid,
// not_found for one that does not work, unavailable.
func ConvertManifest(ctx context.Context, api, code string, transport http.RoundTripper) (Credentials, error) {
	if code == "" || len(code) > 200 || strings.ContainsAny(code, "/?#%. ") {
		return Credentials{}, nimbus.Errorf(nimbus.CodeInvalid, "this is no code of GitHub's").
			WithHint("it is the code=… in the address to which GitHub sent your browser")
	}
	if transport == nil {
		transport = newTransport()
	}
	a := &App{baseURL: APIURL(api), timeout: defaultCallTimeout}
	if err := checkAPI(a.baseURL); err != nil {
		return Credentials{}, err
	}
	client, err := a.clientOver(boundedTransport{transport})
	if err != nil {
		return Credentials{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var made *github.AppConfig
	if made, _, err = client.Apps.CompleteAppManifest(ctx, code); err != nil {
		err = translate("trade the code for the App", err)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return Credentials{}, nimbus.Errorf(nimbus.CodeNotFound, "GitHub does not know this code: %w", err).
				WithHint("a code works once, within an hour: begin again with `nimbus github setup`")
		}
		return Credentials{}, err
	}
	c := Credentials{AppID: made.GetID(), PrivateKey: []byte(made.GetPEM()), WebhookSecret: []byte(made.GetWebhookSecret())}
	if c.AppID == 0 || len(c.PrivateKey) == 0 || len(c.WebhookSecret) == 0 {
		return Credentials{}, fmt.Errorf("GitHub answered without the App's key or secret")
	}
	return c, nil
}
