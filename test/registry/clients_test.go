package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
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
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	oremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// run runs a program, and fails the test with what it says where it fails.
func run(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	out, err := tryRun(t, env, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

func tryRun(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestDocker logs in, pushes, removes and pulls by a real daemon, which is refused
// what it may not have.
func TestDocker(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "docker")
	daemon, c := testenv.DockerWith(t), embedded(t, registry.Limits{})
	env := []string{"DOCKER_HOST=unix://" + daemon.Socket, "DOCKER_CONFIG=" + t.TempDir(), "DOCKER_CONTENT_TRUST=0"}
	if err := daemon.Image("made", "here", "ENV SIZE=1"); err != nil {
		t.Fatal(err)
	}
	image := c.address + "/default/team/app:v1"
	run(t, env, "docker", "tag", "made:here", image)
	if out, err := tryRun(t, env, "docker", "push", image); err == nil || !strings.Contains(out, "unauthorized") && !strings.Contains(out, "no basic auth") && !strings.Contains(out, "denied") {
		t.Errorf("without a login a push says %v: %s", err, out)
	}
	if out, err := tryRun(t, env, "docker", "login", "-u", "anybody", "-p", "nimbus_user_wrong", c.address); err == nil {
		t.Errorf("a wrong token logs in: %s", out)
	}
	run(t, env, "docker", "login", "-u", "anybody", "-p", c.token, c.address)
	pushed := run(t, env, "docker", "push", image)
	// A second repository mounts what the first has.
	other := c.address + "/default/team/other:v1"
	run(t, env, "docker", "tag", "made:here", other)
	if again := run(t, env, "docker", "push", other); !strings.Contains(again, "Mounted from default/team/app") {
		t.Errorf("the second push mounts nothing:\n%s", again)
	}
	if out, err := tryRun(t, env, "docker", "push", strings.Replace(image, "/default/", "/nobody/", 1)); err == nil {
		t.Errorf("an org that is not there takes a push: %s", out)
	}
	id := run(t, env, "docker", "inspect", "-f", "{{.Id}}", image)
	run(t, env, "docker", "rmi", "-f", "made:here", image, other)
	run(t, env, "docker", "pull", image)
	if got := run(t, env, "docker", "inspect", "-f", "{{.Id}}", image); got != id {
		t.Errorf("%s was pushed, and %s is pulled\n%s", id, got, pushed)
	}
	run(t, env, "docker", "logout", c.address)
}

// TestSkopeo copies in, lists, inspects, copies on, and deletes.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "skopeo")
	c := embedded(t, registry.Limits{})
	dir := t.TempDir()
	layout := filepath.Join(dir, "image")
	auth, plain := []string{"--authfile", filepath.Join(dir, "auth.json")}, "--dest-tls-verify=false"
	image := "docker://" + c.address + "/default/app:v1"
	writeLayout(t, layout)
	run(t, nil, "skopeo", "login", "--tls-verify=false", auth[0], auth[1], "-u", "anybody", "-p", c.token, c.address)
	policy := "--insecure-policy"
	run(t, nil, "skopeo", policy, "copy", auth[0], auth[1], plain, "oci:"+layout+":v1", image)
	run(t, nil, "skopeo", policy, "copy", auth[0], auth[1], "--src-tls-verify=false", plain, "--format", "v2s2", image, strings.Replace(image, "v1", "docker", 1))
	run(t, nil, "skopeo", policy, "copy", auth[0], auth[1], "--src-tls-verify=false", plain, image, strings.Replace(image, "/app:", "/copy:", 1))
	if got := run(t, nil, "skopeo", "list-tags", auth[0], auth[1], "--tls-verify=false", "docker://"+c.address+"/default/app"); !strings.Contains(got, `"docker"`) || !strings.Contains(got, `"v1"`) {
		t.Errorf("the tags are %s", got)
	}
	if got := run(t, nil, "skopeo", "inspect", "--raw", auth[0], auth[1], "--tls-verify=false", strings.Replace(image, "v1", "docker", 1)); !strings.Contains(got, "vnd.docker.distribution.manifest.v2+json") {
		t.Errorf("the manifest of Docker's form is %s", got)
	}
	back := filepath.Join(dir, "back")
	run(t, nil, "skopeo", policy, "copy", auth[0], auth[1], "--src-tls-verify=false", image, "dir:"+back)
	run(t, nil, "skopeo", "delete", auth[0], auth[1], "--tls-verify=false", image)
	if out, err := tryRun(t, nil, "skopeo", "inspect", auth[0], auth[1], "--tls-verify=false", image); err == nil {
		t.Errorf("what was deleted is there: %s", out)
	}
	if out, err := tryRun(t, nil, "skopeo", "list-tags", "--tls-verify=false", "docker://"+c.address+"/default/app"); err == nil {
		t.Errorf("without a login tags are listed: %s", out)
	}
}

// images are an image and an index of two, of random bytes.
func images(t *testing.T) (v1.Image, v1.ImageIndex) {
	t.Helper()
	image, err := random.Image(200_000, 3, random.WithSource(rand.NewSource(1)))
	if err != nil {
		t.Fatal(err)
	}
	index, err := random.Index(50_000, 2, 2, random.WithSource(rand.NewSource(2)))
	if err != nil {
		t.Fatal(err)
	}
	return image, index
}

// TestGoContainerRegistry pushes and pulls images and indexes, mounts, lists, reads
// referrers and deletes; what comes back is checked by the library.
func TestGoContainerRegistry(t *testing.T) {
	t.Parallel()
	for how, open := range map[string]func(testing.TB, registry.Limits) *control{"fs and SQLite": embedded, "S3 and PostgreSQL": replica} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := open(t, registry.Limits{})
			options := []remote.Option{remote.WithAuth(&authn.Basic{Username: "anybody", Password: c.token}), remote.WithContext(t.Context()), remote.WithTransport(quiet(t))}
			image, index := images(t)
			at := func(text string) name.Reference {
				ref, err := name.ParseReference(c.address+"/default/"+text, name.Insecure)
				if err != nil {
					t.Fatal(err)
				}
				return ref
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(remote.Write(at("one/app:v1"), image, options...))
			must(remote.WriteIndex(at("one/app:all"), index, options...))
			pulled, err := remote.Image(at("one/app:v1"), options...)
			must(err)
			must(validate.Image(pulled))
			all, err := remote.Index(at("one/app:all"), options...)
			must(err)
			must(validate.Index(all))
			must(remote.Write(at("two/app:v1"), pulled, options...)) // mounts
			tags, err := remote.List(at("one/app").Context(), options...)
			if err != nil || strings.Join(tags, " ") != "all v1" {
				t.Errorf("the tags are %q, %v", tags, err)
			}
			desc, err := remote.Head(at("one/app:v1"), options...)
			must(err)
			about := mutate.Subject(mutate.MediaType(empty.Image, "application/vnd.oci.image.manifest.v1+json"), *desc).(v1.Image)
			must(remote.Write(at("one/app:about"), about, options...))
			referrers, err := remote.Referrers(at("one/app").Context().Digest(desc.Digest.String()), options...)
			must(err)
			list, err := referrers.IndexManifest()
			if err != nil || len(list.Manifests) != 1 {
				t.Errorf("the referrers are %+v, %v", list, err)
			}
			must(remote.Delete(at("one/app@"+desc.Digest.String()), options...))
			var refused *transport.Error
			if _, err := remote.Image(at("one/app:v1"), options...); !errors.As(err, &refused) || refused.StatusCode != http.StatusNotFound {
				t.Errorf("what was deleted: %v", err)
			}
			if _, err := remote.Image(at("two/app:v1"), remote.WithTransport(quiet(t))); !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized {
				t.Errorf("a stranger pulls: %v", err)
			}
		})
	}
}

// quiet is a transport that leaves no connection behind.
func quiet(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func writeLayout(t *testing.T, dir string) {
	t.Helper()
	store := memory.New()
	layer := bytes.Repeat([]byte("layer "), 10_000)
	desc, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, desc.Digest)
	cfg, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageConfig, []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, cfg.MediaType, cfg.Digest, cfg.Size, desc.MediaType, desc.Digest, desc.Size)
	man := string(registry.Of(registry.SHA256, []byte(m)))
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`, ocispec.MediaTypeImageManifest, man, len(m)),
		"blobs/sha256/" + strings.TrimPrefix(man, "sha256:"): []byte(m), "blobs/sha256/" + cfg.Digest.Encoded(): []byte(config), "blobs/sha256/" + desc.Digest.Encoded(): layer}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOras packs an artifact with a signature about it, copies both, and finds the
// one by the other.
func TestOras(t *testing.T) {
	t.Parallel()
	c := embedded(t, registry.Limits{})
	ctx, tr := t.Context(), quiet(t)
	repo := func(text string) *oremote.Repository {
		r, err := oremote.NewRepository(c.address + "/default/" + text)
		if err != nil {
			t.Fatal(err)
		}
		r.PlainHTTP = true
		r.Client = &auth.Client{Client: &http.Client{Transport: tr}, Cache: auth.NewCache(), Credential: auth.StaticCredential(c.address, auth.Credential{Username: "anybody", Password: c.token})}
		return r
	}
	local, to := memory.New(), repo("artifacts/sbom")
	content, err := oras.PushBytes(ctx, local, "application/spdx+json", []byte(`{"spdxVersion":"SPDX-2.3"}`))
	if err != nil {
		t.Fatal(err)
	}
	made, err := oras.PackManifest(ctx, local, oras.PackManifestVersion1_1, "application/vnd.example.thing", oras.PackManifestOptions{Layers: []ocispec.Descriptor{content}})
	if err != nil {
		t.Fatal(err)
	}
	about, err := oras.PackManifest(ctx, local, oras.PackManifestVersion1_1, "application/vnd.example.signature", oras.PackManifestOptions{Subject: &made, Layers: []ocispec.Descriptor{content}})
	if err == nil {
		err = errors.Join(local.Tag(ctx, about, "signature"), local.Tag(ctx, made, "v1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"v1", "signature"} {
		if _, err := oras.Copy(ctx, local, tag, to, tag, oras.DefaultCopyOptions); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := oras.ExtendedCopy(ctx, to, "v1", repo("artifacts/copy"), "v1", oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"artifacts/sbom", "artifacts/copy"} {
		found := 0
		err = repo(of).Referrers(ctx, made, "application/vnd.example.signature", func(all []ocispec.Descriptor) error {
			found += len(all)
			return nil
		})
		if err != nil || found != 1 {
			t.Errorf("%s has %d signatures of it, %v", of, found, err)
		}
	}
	r, err := to.Fetch(ctx, content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !strings.Contains(string(got), "SPDX") {
		t.Errorf("%q, %v", got, err)
	}
	if err := to.Manifests().Delete(context.WithoutCancel(ctx), made); err != nil {
		t.Error(err)
	}
}
