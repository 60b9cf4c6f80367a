package httpapi

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Methods are the RPCs of the API description by their procedures, but for the
// guest's, which is not for this door.
func Methods() map[string]protoreflect.MethodDescriptor {
	out := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("nimbus.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for k := range service.Methods().Len() {
				if m := service.Methods().Get(k); service.Name() != "GuestService" {
					out["/"+string(service.FullName())+"/"+string(m.Name())] = m
				}
			}
		}
		return true
	})
	return out
}

// Procedures are their names.
func Procedures() []string { return slices.Sorted(maps.Keys(Methods())) }

// Routes are the patterns of what is plain HTTP.
func Routes() []string { return slices.Sorted(maps.Keys(routes)) }
