package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// ImageRepo makes a message.
func ImageRepo(r nimbus.ImageRepo) *nimbusv1.RegistryRepo {
	return &nimbusv1.RegistryRepo{Name: r.Name, Rules: ImageRules(r.ImageRules), CreatedAt: Time(r.CreatedAt), Tags: r.Tags, Manifests: r.Manifests,
		Bytes: r.Bytes, PulledAt: Time(r.PulledAt)}
}

// ToImageRepo reads one.
func ToImageRepo(r *nimbusv1.RegistryRepo) nimbus.ImageRepo {
	return nimbus.ImageRepo{Name: r.GetName(), ImageRules: ToImageRules(r.GetRules()), CreatedAt: ToTime(r.GetCreatedAt()), Tags: r.GetTags(),
		Manifests: r.GetManifests(), Bytes: r.GetBytes(), PulledAt: ToTime(r.GetPulledAt())}
}

// ImageRules makes a message.
func ImageRules(r nimbus.ImageRules) *nimbusv1.RegistryRules {
	return &nimbusv1.RegistryRules{Immutable: r.Immutable, KeepDays: int32(r.KeepDays), Evict: r.Evict, PushFrom: r.PushFrom}
}

// ToImageRules reads some.
func ToImageRules(r *nimbusv1.RegistryRules) nimbus.ImageRules {
	return nimbus.ImageRules{Immutable: r.GetImmutable(), KeepDays: int(r.GetKeepDays()), Evict: r.GetEvict(), PushFrom: r.GetPushFrom()}
}

// ImageUsage makes a message.
func ImageUsage(u nimbus.ImageUsage) *nimbusv1.RegistryUsage {
	return &nimbusv1.RegistryUsage{Bytes: u.Bytes, Quota: u.Quota, OwnQuota: u.OwnQuota}
}

// ToImageUsage reads one.
func ToImageUsage(u *nimbusv1.RegistryUsage) nimbus.ImageUsage {
	return nimbus.ImageUsage{Bytes: u.GetBytes(), Quota: u.GetQuota(), OwnQuota: u.GetOwnQuota()}
}

// Image makes a message.
func Image(i nimbus.Image) *nimbusv1.Image {
	m := &nimbusv1.Image{Tag: i.Tag, Digest: i.Digest, MediaType: i.MediaType, ArtifactType: i.ArtifactType, Bytes: i.Bytes, PushedAt: Time(i.PushedAt), PulledAt: Time(i.PulledAt),
		Platforms: i.Platforms}
	for _, r := range i.Referrers {
		m.Referrers = append(m.Referrers, &nimbusv1.ImageReferrer{Digest: r.Digest, ArtifactType: r.ArtifactType, Bytes: r.Bytes})
	}
	return m
}

// ToImage reads one.
func ToImage(m *nimbusv1.Image) nimbus.Image {
	i := nimbus.Image{Tag: m.GetTag(), Digest: m.GetDigest(), MediaType: m.GetMediaType(), ArtifactType: m.GetArtifactType(), Bytes: m.GetBytes(),
		PushedAt: ToTime(m.GetPushedAt()), PulledAt: ToTime(m.GetPulledAt()), Platforms: m.GetPlatforms()}
	for _, r := range m.GetReferrers() {
		i.Referrers = append(i.Referrers, nimbus.ImageReferrer{Digest: r.GetDigest(), ArtifactType: r.GetArtifactType(), Bytes: r.GetBytes()})
	}
	return i
}

// ImageMirror makes a message.
func ImageMirror(i nimbus.ImageMirror) *nimbusv1.RegistryMirror {
	return &nimbusv1.RegistryMirror{Name: i.Name, Upstream: i.Upstream, Username: i.Username, Allow: i.Allow, SetAt: Time(i.SetAt), SetBy: i.SetBy,
		Failure: i.Failure, FailedAt: Time(i.FailedAt), LimitedUntil: Time(i.LimitedUntil), Repos: i.Repos, Bytes: i.Bytes, Quota: i.Quota}
}

// ToImageMirror reads one.
func ToImageMirror(m *nimbusv1.RegistryMirror) nimbus.ImageMirror {
	return nimbus.ImageMirror{Name: m.GetName(), Upstream: m.GetUpstream(), Username: m.GetUsername(), Allow: m.GetAllow(), SetAt: ToTime(m.GetSetAt()), SetBy: m.GetSetBy(),
		Failure: m.GetFailure(), FailedAt: ToTime(m.GetFailedAt()), LimitedUntil: ToTime(m.GetLimitedUntil()), Repos: m.GetRepos(), Bytes: m.GetBytes(), Quota: m.GetQuota()}
}

// ImageMirrorChange makes a message.
func ImageMirrorChange(c nimbus.ImageMirrorChange) *nimbusv1.SetRegistryMirrorRequest {
	return &nimbusv1.SetRegistryMirrorRequest{Name: c.Name, Upstream: c.Upstream, Username: c.Username, Password: c.Password, Allow: c.Allow}
}

// ToImageMirrorChange reads one.
func ToImageMirrorChange(m *nimbusv1.SetRegistryMirrorRequest) nimbus.ImageMirrorChange {
	return nimbus.ImageMirrorChange{Name: m.GetName(), Upstream: m.GetUpstream(), Username: m.GetUsername(), Password: m.GetPassword(), Allow: m.GetAllow()}
}
