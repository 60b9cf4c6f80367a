package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/bearer"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// HostSessions is how hosts become known, and stay so.
type HostSessions interface {
	EnrollHost(ctx context.Context, hostID string, key []byte, joinToken string) error
	JoinedHost(ctx context.Context, joinToken string, key []byte) (string, error)
	OpenHostSession(ctx context.Context, c bearer.Claim, signature []byte) (bearer.Session, error)
}

// Join makes a host for a join token. A host that joins with a key gets no
// token: it opens its sessions itself, and asking again gets it the same answer.
func (s agentService) Join(ctx context.Context, r *connect.Request[nimbusv1.JoinRequest]) (*connect.Response[nimbusv1.JoinResponse], error) {
	key, token := r.Msg.GetPublicKey(), r.Msg.GetJoinToken()
	if err := s.api.Identity.RedeemJoin(ctx, token); err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated && len(key) > 0 {
			if id, again := s.api.Identity.JoinedHost(ctx, token, key); again == nil {
				return connect.NewResponse(&nimbusv1.JoinResponse{HostId: id}), nil
			}
		}
		return nil, err
	}
	h, err := s.api.Hosts.RegisterHost(ctx, r.Msg.GetName(), r.Msg.GetVersion(), wire.ToInventory(r.Msg.GetInventory()))
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.JoinResponse{HostId: h.ID}
	if len(key) > 0 {
		return connect.NewResponse(out), s.api.Identity.EnrollHost(ctx, h.ID, key, token)
	}
	out.HostToken, err = s.api.Identity.IssueHost(ctx, h.ID)
	return connect.NewResponse(out), err
}

// sessionService implements nimbusv1connect.SessionServiceHandler.
type sessionService struct{ api *api }

func (s sessionService) OpenSession(ctx context.Context, r *connect.Request[nimbusv1.OpenSessionRequest]) (*connect.Response[nimbusv1.OpenSessionResponse], error) {
	claim := bearer.Claim{HostID: r.Msg.GetHostId(), Number: r.Msg.GetNumber(), TokenHash: r.Msg.GetTokenSha256()}
	got, err := s.api.Identity.OpenHostSession(ctx, claim, r.Msg.GetSignature())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.OpenSessionResponse{Opened: got.Opened, Number: got.Number, ValidFor: wire.Duration(got.ValidFor)}), nil
}

func (s sessionService) EnrollKey(ctx context.Context, r *connect.Request[nimbusv1.EnrollKeyRequest]) (*connect.Response[nimbusv1.EnrollKeyResponse], error) {
	err := s.api.Identity.EnrollHost(ctx, callerOf(ctx).Subject, r.Msg.GetPublicKey(), "")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.EnrollKeyResponse{}), nil
}
