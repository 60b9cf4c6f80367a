package browser_test

import (
	"encoding/json"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nimbus-ci/nimbus/internal/server"
)

// TestRegistry: what is in the registry, how one gets it in and out, and that a tag
// goes by who may remove it.
func TestRegistry(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	data := strings.TrimPrefix(env[len(env)-1], "NIMBUS_DATA=")
	secret, err := os.ReadFile(filepath.Join(data, server.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	p := &imagePusher{browser: b, token: strings.TrimSpace(string(secret))}
	var link struct {
		URL string `json:"url"`
	}
	b.run(env, "users", "add", "viewer@example.com", "--role", "viewer")
	if err := json.Unmarshal(b.run(env, "login", "--user", "viewer@example.com", "--json"), &link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIEWER", link.URL)
	tags := func() string { return string(b.run(env, "registry", "ls", "team/app")) }
	b.drive("registry.mjs", env, map[string]func(){
		"push": func() {
			p.push()
			b.run(env, "registry", "rules", "team/app", "--immutable", "--push-from", "octo/app")
		},
		"may change": func() { b.run(env, "registry", "rules", "team/app", "--push-from", "octo/app") },
		"still there": func() {
			if !strings.Contains(tags(), "gone") {
				t.Error("the tag is removed before that is confirmed")
			}
		},
		"removed": func() {
			if said := tags(); strings.Contains(said, "gone") || !strings.Contains(said, "linux/amd64,linux/arm64") {
				t.Errorf("the command line shows %s", said)
			}
		},
	})
}

// imagePusher pushes images with what is said about them.
type imagePusher struct {
	*browser

	token string
}

func (p *imagePusher) at(tag string) name.Reference {
	p.t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(p.url, "http://")+"/default/team/app:"+tag, name.Insecure)
	p.must(err)
	return ref
}

func (p *imagePusher) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// image is one of random bytes for a platform.
func (p *imagePusher) image(seed int64, arch string) v1.Image {
	p.t.Helper()
	made, err := random.Image(300_000, 2, random.WithSource(rand.NewSource(seed)))
	p.must(err)
	file, err := made.ConfigFile()
	p.must(err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	made, err = mutate.ConfigFile(made, file)
	p.must(err)
	return mutate.ConfigMediaType(mutate.MediaType(made, types.OCIManifestSchema1), types.OCIConfigJSON)
}

func (p *imagePusher) push() {
	p.t.Helper()
	options := []remote.Option{remote.WithAuth(&authn.Basic{Username: "anybody", Password: p.token}), remote.WithContext(p.ctx)}
	amd, arm := p.image(1, "amd64"), p.image(2, "arm64")
	p.must(remote.Write(p.at("v1"), amd, options...))
	p.must(remote.Write(p.at("gone"), arm, options...))
	p.must(remote.Write(p.at("a-tag-with-a-name-that-is-about-as-long-as-anybody-would-make-one-for-a-commit-0123456789abcdef0123456789abcdef01234567"), arm, options...))
	index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}}), types.OCIImageIndex)
	p.must(remote.WriteIndex(p.at("all"), index, options...))
	about, err := remote.Head(p.at("v1"), options...)
	p.must(err)
	for n, kind := range []types.MediaType{"application/spdx+json", "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.cncf.notary.signature"} {
		said := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), kind)
		said = mutate.Annotations(said, map[string]string{"n": string(rune('a' + n))}).(v1.Image)
		artifact := mutate.Subject(said, *about).(v1.Image)
		digest, err := artifact.Digest()
		p.must(err)
		p.must(remote.Write(p.at("v1").Context().Digest(digest.String()), artifact, options...))
	}
	_, err = remote.Image(p.at("v1"), options...) // so that it was pulled
	p.must(err)
}
