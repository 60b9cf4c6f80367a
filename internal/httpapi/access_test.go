package httpapi

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// TestAccessIsDecidedForEveryProcedure reads the API description: a new RPC
// fails here until the table says who may call it.
func TestAccessIsDecidedForEveryProcedure(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	for _, file := range []protoreflect.FileDescriptor{
		nimbusv1.File_nimbus_v1_job_proto, nimbusv1.File_nimbus_v1_host_proto, nimbusv1.File_nimbus_v1_agent_proto,
		nimbusv1.File_nimbus_v1_github_proto,
	} {
		services := file.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for k := range methods.Len() {
				procedure := "/" + string(services.Get(i).FullName()) + "/" + string(methods.Get(k).Name())
				described[procedure] = true
				if _, ok := access[procedure]; !ok {
					t.Errorf("nobody decided who may call %s", procedure)
				}
			}
		}
	}
	for procedure := range access {
		if !described[procedure] {
			t.Errorf("%s is in the table but not in the API", procedure)
		}
	}
}
