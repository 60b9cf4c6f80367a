package httpapi

import (
	"context"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

func (s registryService) ListRegistryMirrors(ctx context.Context, _ *connect.Request[nimbusv1.ListRegistryMirrorsRequest]) (*connect.Response[nimbusv1.ListRegistryMirrorsResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	all, err := images.Mirrors(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.ListRegistryMirrorsResponse{Mirrors: messages(all, wire.ImageMirror)}, err)
}

func (s registryService) SetRegistryMirror(ctx context.Context, r *connect.Request[nimbusv1.SetRegistryMirrorRequest]) (*connect.Response[nimbusv1.SetRegistryMirrorResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.SetRegistryMirrorResponse{}, images.SetMirror(ctx, c.Principal, c.org, wire.ToImageMirrorChange(r.Msg)))
}

func (s registryService) RemoveRegistryMirror(ctx context.Context, r *connect.Request[nimbusv1.RemoveRegistryMirrorRequest]) (*connect.Response[nimbusv1.RemoveRegistryMirrorResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.RemoveRegistryMirrorResponse{}, images.RemoveMirror(ctx, c.Principal, c.org, r.Msg.GetName()))
}
