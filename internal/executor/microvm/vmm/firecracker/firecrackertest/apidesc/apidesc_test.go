package apidesc

import (
	"errors"
	"strings"
	"testing"
)

func TestWholeDescriptionIsRead(t *testing.T) {
	t.Parallel()
	all, err := Operations()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 38 {
		t.Errorf("%d operations, the description has 38", len(all))
	}
	paths := map[string]bool{}
	for _, op := range all {
		paths[op.Path] = true
		if op.ID == "" || op.other == nil {
			t.Errorf("%s %s lacks its id or the answer for all else", op.Method, op.Path)
		}
	}
	if len(paths) != 26 {
		t.Errorf("%d paths, the description has 26", len(paths))
	}
	if op, err := Find("PUT", "/drives/a/b"); op != nil || err != nil {
		t.Errorf("found %v, %v", op, err)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		call, body string
		want       Kind
		field      string
	}{
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false}`, "", ""},
		{"PUT /drives/a", `{"drive_id":"a"}`, Missing, "is_root_device"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false,"colour":"red"}`, Unknown, "colour"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":"no"}`, WrongType, "is_root_device"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false,"io_engine":"Diesel"}`, WrongWord, "io_engine"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false,"rate_limiter":{"ops":{"size":1}}}`, Missing, "refill_time"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false,"rate_limiter":{"ops":{"size":-1,"refill_time":1}}}`, OutOf, "rate_limiter.ops.size"},
		{"PUT /drives/a", `{"drive_id":"a","is_root_device":false,"rate_limiter":{"ops":{"size":1,"refill_time":1,"x":1}}}`, Unknown, "x"},
		{"PUT /drives/a", `{"drive_id`, Malformed, ""},
		{"PUT /drives/a", ``, Empty, ""},
		{"GET /version", `{}`, Unwanted, ""},
		{"PUT /machine-config", `{"vcpu_count":33,"mem_size_mib":1}`, OutOf, "vcpu_count"},
		{"PUT /logger", `{"level":"Off"}`, "", ""}, // not a boolean, as older YAML has it
		{"PUT /mmds", `{"any":{"thing":[1]}}`, "", ""},
		{"PUT /metrics", `{"metrics_path":"m","properties":{"a":"b"}}`, "", ""},
		{"PUT /snapshot/load", `{"snapshot_path":"s","network_overrides":[{"iface_id":"e","host_dev_name":"t","y":1}]}`, Unknown, "y"},
	} {
		method, path, _ := strings.Cut(c.call, " ")
		op, err := Find(method, path)
		if err != nil || op == nil {
			t.Fatal(op, err)
		}
		err = op.CheckRequest([]byte(c.body))
		var got Kind
		var field string
		if v, ok := errors.AsType[*ViolationError](err); ok {
			got, field = v.Kind, v.Field
		} else if err != nil {
			t.Errorf("%s %s: %v", c.call, c.body, err)
		}
		if got != c.want || c.field != "" && field != c.field {
			t.Errorf("%s %s: got %v, want %s of %q", c.call, c.body, err, c.want, c.field)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	op, err := Find("GET", "/")
	if err != nil {
		t.Fatal(err)
	}
	whole := `{"app_name":"Firecracker","id":"a","state":"Running","vmm_version":"1"}`
	if err := op.CheckAnswer(200, []byte(whole)); err != nil {
		t.Error(err)
	}
	for status, body := range map[int]string{
		200: strings.Replace(whole, "Running", "Jogging", 1), // a state that there isn't
		201: whole,                                           // a status that isn't described
		500: `{"fault":"of its own"}`,                        // an error that isn't one
	} {
		if err := op.CheckAnswer(status, []byte(body)); err == nil {
			t.Errorf("%d %s passed", status, body)
		}
	}
}
