package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	maxMirrorName = 100
	maxUpstream   = 300
	maxLogin      = 4096
	mostPatterns  = 100
)

// usualUpstream is where a mirror leads of which nobody says that.
func usualUpstream(name string) string {
	if name == dockerHub {
		return "https://registry-1.docker.io"
	}
	return "https://" + name
}

// dockerHub is what Docker's registry is called, where a name of one word is below
// library.
const dockerHub = "docker.io"

// Mirrors are those of an org, by name, with how they do and what is here of them.
func (s *Service) Mirrors(ctx context.Context, orgID string) ([]nimbus.ImageMirror, error) {
	rows, err := s.store.RegistryMirrors(ctx, orgID, mostMirrors)
	if err != nil {
		return nil, fmt.Errorf("list mirrors: %w", err)
	}
	all := make([]nimbus.ImageMirror, len(rows))
	for i, row := range rows {
		all[i] = row.ImageMirror
		if row.Clearing {
			all[i].Failure, all[i].FailedAt = "what is here of before is being removed; if that was broken off, set the mirror again, or remove it", row.SetAt
		}
		if all[i].Repos, all[i].Bytes, err = s.store.RegistryMirrorTotals(ctx, orgID, row.Name); err != nil {
			return nil, fmt.Errorf("look what is here of a mirror: %w", err)
		}
		all[i].Quota = s.limits.Mirror
	}
	return all, nil
}

// SetMirror sets a mirror of an org, and makes it where there is none of that
// name. What is here of one that leads somewhere else now is removed. Codes:
// invalid, conflict where images were pushed below the name.
func (s *Service) SetMirror(ctx context.Context, who nimbus.Principal, orgID string, c nimbus.ImageMirrorChange) error {
	c, err := s.checkMirror(c)
	if err != nil {
		return err
	}
	rows, err := s.store.RegistryMirrors(ctx, orgID, mostMirrors)
	if err != nil {
		return fmt.Errorf("look up the mirrors of an org: %w", err)
	}
	i := slices.IndexFunc(rows, func(r MirrorRow) bool { return r.Name == c.Name })
	var before MirrorRow
	switch {
	case i >= 0:
		before = rows[i]
	case len(rows) >= mostMirrors:
		return nimbus.Errorf(nimbus.CodeTooLarge, "the org has %d mirrors, which is the most", len(rows))
	}
	row := MirrorRow{MirrorKey: MirrorKey{OrgID: orgID, Mirror: c.Name}, ImageMirror: nimbus.ImageMirror{
		Name: c.Name, Upstream: c.Upstream, Username: c.Username, Allow: c.Allow, SetBy: cmp.Or(who.Email, who.Name, who.Actor())}}
	if c.Username != "" && before.Username == c.Username && before.Upstream == c.Upstream {
		row.Secret = before.Secret
	}
	if c.Username != "" && c.Password == "" && row.Secret == "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "the password of %.100q at %s is not known", c.Username, c.Upstream).
			WithHint("--password-file says where it is, --no-login has the mirror be nobody; it stays only while upstream and username do")
	}
	if c.Password != "" {
		// A new name each time: what leads elsewhere never has the password of before.
		row.Secret = "registry-mirror/" + c.Name + "/" + rand.Text()
		if err := s.secrets.Put(ctx, orgID, row.Secret, []byte(c.Password), nimbus.AuditEvent{}); err != nil {
			return fmt.Errorf("keep the password of a mirror: %w", err)
		}
	}
	e := event(who, orgID, "registry.set_mirror", c.Name, map[string]string{"upstream": c.Upstream, "username": c.Username, "allow": strings.Join(c.Allow, " ")})
	err = clearing(ctx, func(ctx context.Context) error { return s.store.SetRegistryMirror(ctx, row, e) })
	s.known.forget()
	s.renewMirrors(ctx, orgID)
	if row.Secret != before.Secret {
		s.dropUnnamed(ctx, orgID, c.Name, row.Secret, before.Secret)
	}
	if err != nil {
		return fmt.Errorf("set a mirror: %w", err)
	}
	return nil
}

// clearFor bounds a change that removes what is here of a mirror: whoever asked for it
// may have gone meanwhile.
const clearFor = 10 * time.Minute

func clearing(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearFor)
	defer cancel()
	return f(ctx)
}

// dropUnnamed forgets those of some passwords that a mirror does not name: of a change
// that failed nobody knows how far it came.
func (s *Service) dropUnnamed(ctx context.Context, orgID, mirror string, names ...string) {
	var rows []MirrorRow
	err := s.after(ctx, func(ctx context.Context) (err error) {
		rows, err = s.store.RegistryMirrors(ctx, orgID, mostMirrors)
		return err
	})
	if err != nil {
		s.log.WarnContext(ctx, "the password of a mirror that was changed may be left", "org", orgID, "mirror", mirror, "error", err)
		return
	}
	for _, name := range names {
		if !slices.ContainsFunc(rows, func(r MirrorRow) bool { return r.Secret == name }) {
			s.dropSecret(ctx, orgID, name)
		}
	}
}

// dropSecret forgets a password that nothing names any more.
func (s *Service) dropSecret(ctx context.Context, orgID, name string) {
	if name == "" {
		return
	}
	err := s.after(ctx, func(ctx context.Context) error { return s.secrets.Delete(ctx, orgID, name, nimbus.AuditEvent{}) })
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		s.log.WarnContext(ctx, "the password of a mirror that was changed could not be removed", "org", orgID, "error", err)
	}
}

// RemoveMirror removes a mirror of an org with all that is here of it. Codes:
// not_found.
func (s *Service) RemoveMirror(ctx context.Context, who nimbus.Principal, orgID, name string) error {
	var secret string
	err := clearing(ctx, func(ctx context.Context) (err error) {
		secret, err = s.store.DropRegistryMirror(ctx, orgID, name, event(who, orgID, "registry.remove_mirror", name, nil))
		return err
	})
	s.known.forget()
	s.renewMirrors(ctx, orgID)
	s.dropSecret(ctx, orgID, secret)
	if err != nil {
		return fmt.Errorf("remove a mirror: %w", err)
	}
	return nil
}

// NoMirror is the refusal of a mirror that is not there.
func NoMirror(name string) error {
	return nimbus.Errorf(nimbus.CodeNotFound, "the org has no mirror %.100q", name).WithHint("`nimbus registry mirror ls` lists them")
}

// checkMirror checks what somebody wants a mirror to be.
func (s *Service) checkMirror(c nimbus.ImageMirrorChange) (nimbus.ImageMirrorChange, error) {
	if len(c.Name) > maxMirrorName || !isPathWord(c.Name) || !strings.Contains(c.Name, ".") {
		return c, nimbus.Errorf(nimbus.CodeInvalid, "%.100q can't be the name of a mirror", c.Name).
			WithHint("it is called like its registry, as docker.io or ghcr.io: lower-case letters and digits with single dots, underscores or dashes between them, and at least one dot")
	}
	if c.Upstream == "" {
		c.Upstream = usualUpstream(c.Name)
	}
	c.Upstream = strings.TrimRight(c.Upstream, "/")
	u, err := url.Parse(c.Upstream)
	switch {
	case len(c.Upstream) > maxUpstream || err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" ||
		u.Path != "" && (path.Clean(u.Path) != u.Path || strings.ContainsAny(u.Path, "%\\") || u.RawPath != ""):
		return c, nimbus.Errorf(nimbus.CodeInvalid, "that is no address of a registry").WithHint("it looks like https://registry.example")
	case u.User != nil:
		return c, nimbus.Errorf(nimbus.CodeInvalid, "a login does not belong into the address of a registry").WithHint("--username and --password-file")
	case u.Scheme == "http" && !s.insideNamed(u):
		return c, nimbus.Errorf(nimbus.CodeInvalid, "%s would be asked without TLS", u.Host).
			WithHint("that is only for registries that the server's operator names: --registry-mirror-inside HOST:PORT")
	}
	if len(c.Username) > maxLogin || len(c.Password) > maxLogin || c.Username == "" && c.Password != "" || strings.ContainsAny(c.Username, ":\r\n") {
		return c, nimbus.Errorf(nimbus.CodeInvalid, "that is no login: a username without a colon, and a password, of up to %d bytes", maxLogin)
	}
	if len(c.Allow) > mostPatterns {
		return c, nimbus.Errorf(nimbus.CodeInvalid, "%d patterns are too many, %d is the most", len(c.Allow), mostPatterns)
	}
	for _, pattern := range c.Allow {
		if pattern == "" || len(pattern) > maxRepo || strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyz0123456789._-/*") != "" {
			return c, nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no pattern of repositories", pattern).WithHint("it looks like library/* or acme/app: a * stands for anything")
		}
	}
	return c, nil
}

// insideNamed tells whether the operator has named a registry.
func (s *Service) insideNamed(u *url.URL) bool {
	address := u.Host
	if u.Port() == "" {
		address += map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	}
	return slices.Contains(s.inside, address)
}
