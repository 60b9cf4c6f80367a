package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// How far this machine's clock may be off: GitHub refuses what an App signs
// outside of its life, see jwtEarly and jwtLife.
const (
	clockSlack = 10 * time.Second
	clockAhead = jwtEarly
	clockLate  = jwtLife - jwtEarly
)

// redeliveredWithin is how long GitHub may take to send a webhook again, and
// lookEvery how often it is looked whether it has.
const (
	redeliveredWithin = 15 * time.Second
	lookEvery         = 500 * time.Millisecond
)

// The names of the checks that tell whether GitHub can be asked anything at all.
const (
	CheckAPI = "api"
	CheckKey = "key"
)

// examination gathers checks.
type examination struct {
	app *App
	out []nimbus.GitHubCheck
}

func (x *examination) say(name string, status nimbus.CheckStatus, detail, hint string) {
	x.out = append(x.out, nimbus.GitHubCheck{AppID: x.app.id, Name: name, Status: status, Detail: detail, Hint: hint})
}

// Examine looks for what keeps the App from working, and says how to mend it.
// Where the last webhook was refused for its signature it has GitHub send that
// once more, to see whether it still is: processed twice, it has no effect.
func (a *App) Examine(ctx context.Context) []nimbus.GitHubCheck {
	x := &examination{app: a}
	if !x.api(ctx) || !x.key(ctx) {
		return x.out // nothing else can be asked
	}
	x.installations(ctx)
	x.webhook(ctx)
	x.deliveries(ctx)
	return x.out
}

// api tells whether GitHub answers, and what its clock says.
func (x *examination) api(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, x.app.timeout)
	defer cancel()
	date, err := x.app.date(ctx)
	if err != nil {
		x.say(CheckAPI, nimbus.CheckFails, fmt.Sprintf("%s can't be reached: %v", x.app.baseURL, err),
			"let this machine out to it, by HTTPS_PROXY if need be; for GitHub Enterprise Server the address ends with /api/v3")
		return false
	}
	x.say(CheckAPI, nimbus.CheckGood, x.app.baseURL+" answers", "")
	ahead := x.app.clock.Now().Sub(date).Truncate(time.Second)
	detail, hint := fmt.Sprintf("this machine's clock is %v ahead of GitHub's", ahead), "set the clock: timedatectl set-ntp true"
	if ahead < 0 {
		detail = fmt.Sprintf("this machine's clock is %v behind GitHub's", -ahead)
	}
	switch {
	case ahead > clockAhead || -ahead > clockLate:
		x.say("clock", nimbus.CheckFails, detail+", which refuses what is signed by it", hint)
	case ahead.Abs() > clockSlack:
		x.say("clock", nimbus.CheckWarns, detail, hint)
	default:
		x.say("clock", nimbus.CheckGood, "within seconds of GitHub's", "")
	}
	return true
}

// date is GitHub's clock. It is asked for without signing anything, past the
// limiter, whose buckets are not those of strangers.
func (a *App) date(ctx context.Context) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.baseURL+"/meta", nil)
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := a.shared.RoundTrip(req)
	if err != nil {
		return time.Time{}, err
	}
	resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("it answered %d and without a date: %w", resp.StatusCode, err)
	}
	return date, nil
}

// key tells whether GitHub takes the App's key, and what the App may do.
func (x *examination) key(ctx context.Context) bool {
	self, err := x.app.Self(ctx)
	if err != nil {
		hint := nimbus.ErrorHint(err)
		if hint == "" {
			hint = "look at https://www.githubstatus.com, and try again"
		}
		x.say(CheckKey, nimbus.CheckFails, err.Error(), hint)
		return false
	}
	x.say(CheckKey, nimbus.CheckGood, "it is that of "+self.Name, "")
	settings := strings.TrimRight(self.HTMLURL, "/")
	x.permissions("permissions", "the App does not ask for", missing(self.Grants, needs(x.app.anyOrg())),
		"in the App's settings at GitHub ("+settings+"), under Permissions & events, add them; each owner then has to approve")
	for _, event := range events() {
		if !slices.Contains(self.Events, event) {
			x.say("events", nimbus.CheckFails, "the App is not subscribed to "+event+": GitHub tells nothing of jobs",
				"in the App's settings at GitHub, under Permissions & events, subscribe to Workflow jobs")
			return true
		}
	}
	x.say("events", nimbus.CheckGood, "subscribed to "+strings.Join(events(), ", "), "")
	return true
}

// courtesies are permissions without which jobs run all the same.
func courtesies() map[string]string {
	return map[string]string{
		"actions:write": "no job can be run again from here",
		"checks:write":  "nobody is told at GitHub why a job can't run",
		"contents:read": "jobs of private repositories' branches don't save to the cache",
	}
}

// permissions says what is missing.
func (x *examination) permissions(name, who string, missing []string, hint string) {
	status, without := nimbus.CheckWarns, ""
	for _, m := range missing {
		lack, courtesy := courtesies()[m]
		if !courtesy {
			status = nimbus.CheckFails
		}
		without += "; " + lack
	}
	switch {
	case len(missing) == 0:
		x.say(name, nimbus.CheckGood, "nothing is missing", "")
	case status == nimbus.CheckFails:
		x.say(name, status, who+" "+strings.Join(missing, ", "), hint)
	default:
		x.say(name, status, who+" "+strings.Join(missing, ", ")+": "+strings.TrimPrefix(without, "; "), hint)
	}
}

// installations tells whose jobs can come, and whose can't.
func (x *examination) installations(ctx context.Context) {
	all, err := x.app.Installations(ctx)
	switch {
	case err != nil:
		x.say("installations", nimbus.CheckFails, err.Error(), nimbus.ErrorHint(err))
		return
	case len(all) == 0:
		x.say("installations", nimbus.CheckFails, "nobody has installed the App", "install it, from its page at GitHub, on the repositories that may use your machines")
		return
	}
	for _, i := range all {
		name := "installation " + i.Account
		if i.Suspended {
			x.say(name, nimbus.CheckFails, "it is suspended: GitHub sends nothing and refuses every call",
				"its owner ends that at GitHub: Settings, Applications, Configure, Unsuspend")
			continue
		}
		x.permissions(name, i.Account+" has not granted", i.Missing,
			"an owner of "+i.Account+" approves them at GitHub: Settings, Applications, Configure, Review request")
	}
}

// webhook tells whether GitHub is set up to send jobs here.
func (x *examination) webhook(ctx context.Context) {
	var hook struct {
		URL         string `json:"url"`
		ContentType string `json:"content_type"`
		Secret      string `json:"secret"`
	}
	err := x.app.asApp(ctx, "read the webhook's settings", func(ctx context.Context, c *github.Client) error {
		_, err := get(ctx, c, "app/hook/config", &hook)
		return err
	})
	u, bad := url.Parse(hook.URL)
	const where = "in the App's settings at GitHub, under General, Webhook: "
	switch {
	case err != nil:
		x.say("webhook", nimbus.CheckFails, err.Error(), nimbus.ErrorHint(err))
	case hook.URL == "":
		x.say("webhook", nimbus.CheckFails, "GitHub does not know where to send webhooks", where+"https://YOUR-NIMBUS/webhooks/github")
	case bad != nil || !strings.HasSuffix(u.Path, "/webhooks/github"):
		x.say("webhook", nimbus.CheckWarns, fmt.Sprintf("webhooks go to %s, which does not end with /webhooks/github", link(hook.URL)), where+"https://YOUR-NIMBUS/webhooks/github")
	case hook.ContentType != "json":
		x.say("webhook", nimbus.CheckFails, "webhooks are sent as forms", where+"content type application/json")
	case hook.Secret == "":
		x.say("webhook", nimbus.CheckFails, "webhooks are sent unsigned, and are refused", "nimbus github rotate-secret "+fmt.Sprint(x.app.id)+" gives them a secret")
	default:
		x.say("webhook", nimbus.CheckGood, "webhooks go to "+link(hook.URL), "")
	}
}

// deliveries tells how the last webhook fared.
func (x *examination) deliveries(ctx context.Context) {
	last, err := x.app.newest(ctx, func(*github.HookDelivery) bool { return true })
	switch {
	case err != nil:
		x.say("deliveries", nimbus.CheckFails, err.Error(), nimbus.ErrorHint(err))
		return
	case last == nil:
		x.say("deliveries", nimbus.CheckWarns, "GitHub has sent nothing in three days", "push something to a repository that has the App, and look again")
		return
	}
	at := last.GetDeliveredAt().UTC().Format(time.RFC3339)
	if last.GetStatusCode() == http.StatusUnauthorized {
		// The secret may have been mended since.
		if again, err := x.app.sentAgain(ctx, last); err == nil && again != nil {
			last = again
		}
	}
	switch code := last.GetStatusCode(); {
	case code/100 == 2:
		x.say("deliveries", nimbus.CheckGood, "the last webhook was taken, at "+at, "")
	case code == http.StatusUnauthorized:
		x.say("secret", nimbus.CheckFails, "webhooks are refused: GitHub signs them with another secret than Nimbus knows",
			fmt.Sprintf("nimbus github rotate-secret %d sets a new one on both sides", x.app.id))
	case code == http.StatusNotFound:
		x.say("deliveries", nimbus.CheckFails, "the last webhook found nothing at its address (404), at "+at,
			"in the App's settings at GitHub, under General, Webhook: https://YOUR-NIMBUS/webhooks/github")
	default:
		x.say("deliveries", nimbus.CheckFails, fmt.Sprintf("the last webhook did not get through (%s), at %s", text(last.GetStatus()), at),
			"GitHub has to reach the webhook's address; what it sent meanwhile is asked for again")
	}
}

// newest is the newest sending that was answered and is as wanted; nil for none
// on the first page.
func (a *App) newest(ctx context.Context, wanted func(*github.HookDelivery) bool) (found *github.HookDelivery, err error) {
	err = a.asApp(ctx, "list webhook deliveries", func(ctx context.Context, c *github.Client) error {
		var list []*github.HookDelivery
		if _, err := get(ctx, c, "app/hook/deliveries?per_page=100", &list); err != nil {
			return err
		}
		if i := slices.IndexFunc(list, func(d *github.HookDelivery) bool { return d.GetStatus() != "pending" && wanted(d) }); i >= 0 {
			found = list[i]
		}
		return nil
	})
	return found, err
}

// sentAgain has GitHub send a webhook once more, and returns how that fared; nil
// when it has not ended in time.
func (a *App) sentAgain(ctx context.Context, d *github.HookDelivery) (*github.HookDelivery, error) {
	if err := a.Redeliver(ctx, d.GetID()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, redeliveredWithin)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		again, err := a.newest(ctx, func(o *github.HookDelivery) bool { return o.GetGUID() == d.GetGUID() && o.GetID() > d.GetID() })
		if err != nil || again != nil {
			return again, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
}
