package cli

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

const (
	webhookPath = "/webhooks/github"
	// installLook is how often it is looked whether somebody installed the App.
	installLook = 3 * time.Second
)

type githubSetupCmd struct {
	Address      string        `required:"" help:"Address at which GitHub reaches this server, like https://nimbus.example.com." placeholder:"URL"`
	Organization string        `help:"Organisation that is to own the App. Default: your own account." placeholder:"NAME"`
	AppName      string        `help:"Name of the App; nobody else's at GitHub may have it. It can be changed on the page." placeholder:"NAME"`
	API          string        `name:"api" help:"Address of GitHub's API; a GitHub Enterprise Server's is https://HOST/api/v3. Default: https://api.github.com." placeholder:"URL"`
	OrgRunners   bool          `help:"Also ask for what registering runners with organisations takes (nimbus github runners, nimbus github scale-set)."`
	Listen       string        `help:"Address on this machine for your browser to come back to." default:"127.0.0.1:0" placeholder:"HOST:PORT"`
	Wait         bool          `help:"Wait until somebody has installed the App." default:"true" negatable:""`
	Timeout      time.Duration `within:"1s.." help:"How long to wait in all." default:"1h"`
}

func (*githubSetupCmd) Help() string {
	return `Prints a link. Your browser shows a page of GitHub's that makes the App with what Nimbus needs: to register runners at repositories, to read runs and jobs, and to hear of jobs. GitHub then sends your browser back here with a code; the server trades it for the App's key and seals it. Neither key nor secret pass through your hands.
Where your browser is on another machine, let it reach this one: ssh -L PORT:127.0.0.1:PORT, and give the same with --listen.

` + usage(
		"nimbus github setup --address https://nimbus.example.com",
		"nimbus github setup --address https://nimbus.example.com --organization acme --listen 127.0.0.1:8765",
		"nimbus github setup --address https://nimbus.example.com --api https://github.example.com/api/v3",
	)
}

func (c *githubSetupCmd) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := cl.GitHubApps(ctx); err != nil { // who may not do this learns it before the browser opens
		return err
	}
	made, err := c.make(ctx, a, cl)
	if errors.Is(err, context.DeadlineExceeded) {
		return nimbus.Errorf(nimbus.CodeUnavailable, "no browser came back within %v", c.Timeout)
	}
	if err != nil {
		return err
	}
	a.info("%s is connected.", a.errStyle.Bold(made.Slug))
	if made.HTMLURL != "" {
		a.info("install it on the repositories that may use your machines: %s", installPage(made))
	}
	if !c.Wait {
		return a.printApp(made, "later: nimbus github installations")
	}
	found, err := c.await(ctx, a, cl, made)
	if err != nil {
		return err
	}
	return a.printInstallations(found)
}

func installPage(g nimbus.GitHubApp) string { return g.HTMLURL + "/installations/new" }

// make has a person make the App, and the server connect it.
func (c *githubSetupCmd) make(ctx context.Context, a *app, cl *client.Client) (nimbus.GitHubApp, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nimbus.GitHubApp{}, nimbus.Errorf(nimbus.CodeInvalid, "can't listen on %s: %w", c.Listen, err)
	}
	v, err := c.visit(l, func(ctx context.Context, code string) (nimbus.GitHubApp, error) {
		return cl.ConvertGitHubManifest(ctx, code, c.API)
	})
	if err != nil {
		return nimbus.GitHubApp{}, errors.Join(err, l.Close())
	}
	srv := &http.Server{Handler: v, ReadHeaderTimeout: 10 * time.Second}
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(l) }) // until Close: the visit's end is what counts
	defer func() {
		_ = srv.Close() // nothing is owed to a browser any more
		served.Wait()
	}()
	a.info("open this in a browser: %s", a.errStyle.Bold(v.link))
	stop := terminal.Progress(a.Err, func() string { return "waiting for your browser to come back from GitHub" })
	defer stop()
	select {
	case made := <-v.made:
		stop()
		// The browser gets its last page before the listener goes.
		return made, srv.Shutdown(ctx)
	case <-ctx.Done():
		return nimbus.GitHubApp{}, context.Cause(ctx)
	}
}

// visit is what a browser sees of the command: a page that goes to GitHub, and
// one to come back to. Its path is a secret, as the state is: other users of
// this machine can reach the port.
type visit struct {
	mux         *http.ServeMux
	link, state string
	convert     func(ctx context.Context, code string) (nimbus.GitHubApp, error)
	made        chan nimbus.GitHubApp
	page        string // of GitHub's
	manifest    string
}

func (c *githubSetupCmd) visit(l net.Listener, convert func(context.Context, string) (nimbus.GitHubApp, error)) (*visit, error) {
	base := "http://" + l.Addr().String() + "/" + rand.Text()
	address, err := url.Parse(strings.TrimRight(c.Address, "/"))
	if err != nil || address.Host == "" || address.Path != "" {
		return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "%q is no address that GitHub could send webhooks to", c.Address).
			WithHint("it looks like https://nimbus.example.com"))
	}
	if host := address.Hostname(); !forge.IsEnterpriseServer(c.API) && (host == "localhost" || net.ParseIP(host).IsLoopback()) {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "GitHub can't reach %s, and makes no App with such a webhook", address).
			WithHint("give the address at which this server is reached from outside; where there is none, see scale sets in docs/github.md")
	}
	name := c.AppName
	if name == "" {
		name = "Nimbus " + strings.ToLower(rand.Text()[:8])
	}
	manifest, err := forge.Manifest(name, address.String()+webhookPath, base+"/back", c.OrgRunners)
	if err != nil {
		return nil, err
	}
	page, err := forge.ManifestPage(c.API, c.Organization)
	if err != nil {
		return nil, err
	}
	v := &visit{mux: http.NewServeMux(), link: base, state: rand.Text(), convert: convert, made: make(chan nimbus.GitHubApp, 1), manifest: string(manifest)}
	v.page = page + "?state=" + url.QueryEscape(v.state)
	path := strings.TrimPrefix(base, "http://"+l.Addr().String())
	v.mux.HandleFunc("GET "+path, v.leave)
	v.mux.HandleFunc("GET "+path+"/back", v.back)
	return v, nil
}

// ServeHTTP implements http.Handler.
func (v *visit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	v.mux.ServeHTTP(w, r)
}

func (v *visit) leave(w http.ResponseWriter, _ *http.Request) {
	v.show(w, http.StatusOK, visitPage{Title: "Make a GitHub App for Nimbus", Page: v.page, Manifest: v.manifest,
		Text: "GitHub shows you what the App may do, and lets you change its name. You come back here afterwards."})
}

func (v *visit) back(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(v.state)) != 1 {
		v.show(w, http.StatusForbidden, visitPage{Title: "This is not the way back", Text: "Begin again with the link in your terminal."})
		return
	}
	made, err := v.convert(r.Context(), q.Get("code"))
	if err != nil {
		text := err.Error()
		if hint := nimbus.ErrorHint(err); hint != "" {
			text += ": " + hint
		}
		v.show(w, http.StatusBadGateway, visitPage{Title: "The App could not be connected", Text: text})
		return
	}
	v.show(w, http.StatusOK, visitPage{Title: made.Slug + " is connected", Text: "One thing is left: say which repositories may use your machines.",
		Link: installPage(made)})
	select {
	case v.made <- made:
	default: // it was told already
	}
}

type visitPage struct {
	Title, Text    string
	Page, Manifest string // a form that goes to GitHub
	Link           string
}

func (v *visit) show(w http.ResponseWriter, status int, p visitPage) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = visitTemplate.Execute(w, p) // the reader is gone: nobody to tell
}

var visitTemplate = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light"><title>{{.Title}}</title>
<style>
body{font-family:system-ui,sans-serif;max-width:30rem;margin:18vh auto;padding:0 1.5rem;line-height:1.5}
button,a.next{display:inline-block;font:inherit;font-weight:600;padding:.6rem 1.2rem;border:0;border-radius:.4rem;background:#0b6e5f;color:#fff;text-decoration:none;cursor:pointer}
button:focus-visible,a.next:focus-visible{outline:3px solid currentColor;outline-offset:2px}
</style></head>
<body><main><h1>{{.Title}}</h1><p>{{.Text}}</p>
{{if .Page}}<form method="post" action="{{.Page}}"><input type="hidden" name="manifest" value="{{.Manifest}}"><button autofocus>Go on to GitHub</button></form>{{end}}
{{if .Link}}<p><a class="next" href="{{.Link}}">Install it at GitHub</a></p>{{end}}
</main></body></html>
`))

// await waits until somebody has installed the App.
func (c *githubSetupCmd) await(ctx context.Context, a *app, cl *client.Client, made nimbus.GitHubApp) ([]nimbus.GitHubInstallation, error) {
	stop := terminal.Progress(a.Err, func() string { return "waiting for somebody to install " + made.Slug + " (Ctrl-C is fine)" })
	defer stop()
	tick := time.NewTicker(installLook)
	defer tick.Stop()
	for {
		found, err := cl.GitHubInstallations(ctx)
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			return nil, err
		}
		var own []nimbus.GitHubInstallation
		for _, i := range found {
			if i.AppID == made.ID {
				own = append(own, i)
			}
		}
		if len(own) > 0 {
			return own, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for an installation: %w", context.Cause(ctx))
		}
	}
}
