package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// auditService implements nimbusv1connect.AuditServiceHandler.
type auditService struct{ api *api }

func (s auditService) ListAuditEntries(ctx context.Context, r *connect.Request[nimbusv1.ListAuditEntriesRequest]) (*connect.Response[nimbusv1.ListAuditEntriesResponse], error) {
	org, err := chainOf(ctx, r.Msg.GetPlatform())
	if err != nil {
		return nil, err
	}
	entries, next, err := s.api.Audit.Entries(ctx, org, nimbus.AuditFilter{
		Actor: r.Msg.GetActor(), Action: r.Msg.GetAction(), Target: r.Msg.GetTarget(),
		Since: wire.ToTime(r.Msg.GetSince()), Until: wire.ToTime(r.Msg.GetUntil()), OldestFirst: r.Msg.GetOldestFirst(),
	}, pageOf(r.Msg))
	return reply(&nimbusv1.ListAuditEntriesResponse{Entries: messages(entries, wire.AuditEntry), NextPageToken: next}, err)
}

func (s auditService) ListAuditCheckpoints(ctx context.Context, r *connect.Request[nimbusv1.ListAuditCheckpointsRequest]) (*connect.Response[nimbusv1.ListAuditCheckpointsResponse], error) {
	org, err := chainOf(ctx, r.Msg.GetPlatform())
	if err != nil {
		return nil, err
	}
	checkpoints, next, err := s.api.Audit.Checkpoints(ctx, org, pageOf(r.Msg))
	return reply(&nimbusv1.ListAuditCheckpointsResponse{Checkpoints: messages(checkpoints, wire.AuditCheckpoint), NextPageToken: next}, err)
}

func (s auditService) GetAuditKey(context.Context, *connect.Request[nimbusv1.GetAuditKeyRequest]) (*connect.Response[nimbusv1.GetAuditKeyResponse], error) {
	key, err := s.api.Audit.KeyPEM()
	return reply(&nimbusv1.GetAuditKeyResponse{PublicKey: key}, err)
}

// chainOf is the org whose chain is asked for: the caller's, or "" for the
// platform's.
func chainOf(ctx context.Context, platform bool) (string, error) {
	c := callerOf(ctx)
	if !platform {
		return c.org, nil
	}
	if !c.Platform {
		return "", nimbus.Errorf(nimbus.CodeForbidden, "the platform's chain is for administrators of the platform")
	}
	return "", nil
}
