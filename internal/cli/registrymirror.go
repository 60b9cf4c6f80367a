package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

type registryMirrorCmd struct {
	List registryMirrorListCmd `cmd:"" name:"ls" default:"withargs" help:"Show the org's mirrors, and how they do."`
	Show registryMirrorShowCmd `cmd:"" help:"Show one, and what it gives."`
	Add  registryMirrorAddCmd  `cmd:"" help:"Set up a mirror, or change one; for the org's admins."`
	Rm   registryMirrorRmCmd   `cmd:"" name:"rm" help:"Remove a mirror with all that is here of it; for the org's admins."`
}

const aboutMirrors = "A mirror gives images of another registry at SERVER/ORG/NAME/…, as nimbus.example/acme/docker.io/library/alpine, and keeps what was asked for. See docs/registry.md.\n\n"

// mirrorView is how a mirror is written.
type mirrorView struct {
	Name         string     `json:"name"`
	Upstream     string     `json:"upstream"`
	Username     string     `json:"username,omitempty"`
	Allow        []string   `json:"allow"`
	SetAt        time.Time  `json:"set_at"`
	SetBy        string     `json:"set_by"`
	Failure      string     `json:"failure,omitempty"`
	FailedAt     *time.Time `json:"failed_at,omitempty"`
	LimitedUntil *time.Time `json:"limited_until,omitempty"`
	Repos        int64      `json:"repos"`
	Bytes        int64      `json:"bytes"`
	Quota        int64      `json:"quota"`
}

func viewMirror(m nimbus.ImageMirror) mirrorView {
	v := mirrorView{m.Name, m.Upstream, m.Username, m.Allow, m.SetAt, m.SetBy, m.Failure, pulledAt(m.FailedAt), nil, m.Repos, m.Bytes, m.Quota}
	if m.LimitedUntil.After(time.Now()) {
		v.LimitedUntil = &m.LimitedUntil
	}
	if v.Allow == nil {
		v.Allow = []string{}
	}
	return v
}

// does tells in a word or two how a mirror does.
func (v mirrorView) does() string {
	switch {
	case v.LimitedUntil != nil:
		return "waits until " + v.LimitedUntil.Format(time.TimeOnly)
	case v.Failure != "":
		return "fails since " + sometime(v.FailedAt)
	}
	return "ok"
}

type registryMirrorListCmd struct{}

func (*registryMirrorListCmd) Help() string {
	return aboutMirrors + usage("nimbus registry mirror ls", "nimbus registry mirror ls --json | jq '.mirrors[] | select(.failure)'")
}

func (*registryMirrorListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		all, err := cl.ImageMirrors(ctx)
		if err != nil {
			return err
		}
		views := make([]mirrorView, len(all))
		for i, m := range all {
			views[i] = viewMirror(m)
		}
		return list(a, "mirrors", views, "MIRROR\tUPSTREAM\tGIVES\tREPOSITORIES\tSIZE\tDOES", func(v mirrorView) string {
			gives := strings.Join(v.Allow, ", ")
			if gives == "" {
				gives = "nothing"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%d\t%s\t%s", v.Name, terminal.OneLine(v.Upstream), terminal.OneLine(gives), v.Repos, size(v.Bytes), v.does())
		})
	})
}

type registryMirrorShowCmd struct {
	Name string `arg:"" help:"Name of the mirror, as docker.io."`
}

func (*registryMirrorShowCmd) Help() string {
	return aboutMirrors + usage("nimbus registry mirror show docker.io", "nimbus registry mirror show docker.io --json | jq .mirror.failure")
}

func (c *registryMirrorShowCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		all, err := cl.ImageMirrors(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(m nimbus.ImageMirror) bool { return m.Name == c.Name })
		if i < 0 {
			return registry.NoMirror(c.Name)
		}
		v := viewMirror(all[i])
		lines := []string{"upstream: " + v.Upstream, "login: " + v.Username, "gives: " + strings.Join(v.Allow, ", "), "does: " + v.does(),
			fmt.Sprintf("here: %d repositories, %s; all mirrors of the org may have %s", v.Repos, size(v.Bytes), size(v.Quota)),
			"set: " + v.SetAt.Format(time.DateTime) + " by " + v.SetBy}
		if v.Username == "" {
			lines[1] = "login: none"
		}
		if len(v.Allow) == 0 {
			lines[2] = "gives: nothing, --allow says what it may"
		}
		if v.Failure != "" {
			lines = append(lines, "failure: "+v.Failure)
		}
		if a.root.JSON {
			return a.printJSON(map[string]any{"mirror": v})
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(a.Out, terminal.OneLine(line)); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		return nil
	})
}

type registryMirrorAddCmd struct {
	Name         string   `arg:"" help:"What it is called: like its registry, as docker.io."`
	Upstream     string   `help:"Address of the registry. Default: what it is; of a new one https://NAME, and that of Docker's for docker.io." placeholder:"URL"`
	Allow        []string `help:"Repositories that it gives, in place of those that it does; * stands for anything; may be repeated. Default of a new one: none." placeholder:"PATTERN" xor:"allow"`
	Also         []string `help:"Repositories that it gives beside those that it does; may be repeated." placeholder:"PATTERN"`
	AllowNothing bool     `help:"Have it give nothing." xor:"allow"`
	Username     string   `help:"Who to be at the registry. Default: who it is; of a new one nobody." placeholder:"NAME" xor:"login"`
	PasswordFile string   `help:"File with the password or token, - for the standard input. It may be left out while upstream and username stay." placeholder:"FILE"`
	NoLogin      bool     `help:"Be nobody at the registry, and forget the login." xor:"login"`
}

func (*registryMirrorAddCmd) Help() string {
	return aboutMirrors + "Of a mirror that is there only what is given is changed. It counts on all replicas within a second. " +
		"A mirror that leads somewhere else then loses what is here of it.\n\n" +
		usage("nimbus registry mirror add docker.io --allow 'library/*' --allow 'acme/*' --username acme --password-file hub.token",
			"nimbus registry mirror add docker.io --also 'bitnami/*'",
			"nimbus registry mirror add ghcr.io --allow 'acme/*'",
			"nimbus registry mirror add registry.corp --upstream http://10.0.0.5:5000 --allow '*'")
}

// of is the change of a mirror that is there, or of the zero one: what is not given
// stays.
func (c *registryMirrorAddCmd) of(before nimbus.ImageMirror, password string) (nimbus.ImageMirrorChange, error) {
	change := nimbus.ImageMirrorChange{Name: c.Name, Upstream: cmp.Or(c.Upstream, before.Upstream), Username: cmp.Or(c.Username, before.Username), Password: password, Allow: before.Allow}
	if c.NoLogin {
		if password != "" {
			return change, badUsage(errors.New("--no-login goes without --password-file"))
		}
		change.Username = ""
	}
	if len(c.Allow) > 0 || c.AllowNothing {
		change.Allow = c.Allow
	}
	change.Allow = slices.Clone(change.Allow)
	for _, pattern := range c.Also {
		if !slices.Contains(change.Allow, pattern) {
			change.Allow = append(change.Allow, pattern)
		}
	}
	if slices.Contains(change.Allow, "") {
		return change, badUsage(errors.New("an empty pattern allows nothing: --allow-nothing says that"))
	}
	return change, nil
}

// maxPassword bounds the file of a password.
const maxPassword = 4096

func (c *registryMirrorAddCmd) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	f := os.Stdin
	if c.PasswordFile != "-" {
		var err error
		if f, err = os.Open(c.PasswordFile); err != nil {
			return "", fmt.Errorf("open the password: %w", err)
		}
		defer f.Close()
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimSpace(string(text))
	if password == "" || len(text) > maxPassword {
		return "", badUsage(errors.New("there is no password in that file, or more than one can be"))
	}
	return password, nil
}

func (c *registryMirrorAddCmd) Run(ctx context.Context, a *app) error {
	password, err := c.password()
	if err != nil {
		return err
	}
	return a.asking(func(cl *client.Client) error {
		all, err := cl.ImageMirrors(ctx)
		if err != nil {
			return err
		}
		var before nimbus.ImageMirror
		if i := slices.IndexFunc(all, func(m nimbus.ImageMirror) bool { return m.Name == c.Name }); i >= 0 {
			before = all[i]
		}
		change, err := c.of(before, password)
		if err != nil {
			return err
		}
		if err := cl.SetImageMirror(ctx, change); err != nil {
			return err
		}
		if len(change.Allow) == 0 {
			a.info("it gives nothing yet: --allow says what it may")
		}
		return a.say("mirror", map[string]any{"name": c.Name, "allow": append([]string{}, change.Allow...)}, "the mirror %s is set", c.Name)
	})
}

type registryMirrorRmCmd struct {
	Name string `arg:"" help:"Name of the mirror."`
}

func (*registryMirrorRmCmd) Help() string {
	return aboutMirrors + usage("nimbus registry mirror rm docker.io")
}

func (c *registryMirrorRmCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.RemoveImageMirror(ctx, c.Name); err != nil {
			return err
		}
		return a.say("removed", c.Name, "the mirror %s is removed", c.Name)
	})
}
