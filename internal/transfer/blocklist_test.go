package transfer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nimbus-ci/nimbus"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func TestBlockList(t *testing.T) {
	t.Parallel()
	a, b := b64("block-1"), b64("block-2")
	for name, c := range map[string]struct {
		text string
		want []string
		code nimbus.Code
	}{
		"as JS writes it":   {`<?xml version="1.0" encoding="UTF-8" standalone="yes"?><BlockList><Latest>` + b + `</Latest><Latest>` + a + `</Latest></BlockList>`, []string{b, a}, ""},
		"as Go writes it":   {`<BlockList><Latest>` + a + `</Latest></BlockList>`, []string{a}, ""},
		"with space":        {"<BlockList>\n  <Latest>\n" + a + "\n</Latest>\n</BlockList>\n", []string{a}, ""},
		"with a comment":    {"<BlockList><!-- two --><Uncommitted>" + a + "</Uncommitted></BlockList>", []string{a}, ""},
		"of nothing":        {`<BlockList/>`, nil, ""},
		"empty":             {``, nil, nimbus.CodeInvalid},
		"no list":           {`<Latest>` + a + `</Latest>`, nil, nimbus.CodeInvalid},
		"cut":               {`<BlockList><Latest>` + a + `</Latest>`, nil, nimbus.CodeInvalid},
		"two lists":         {`<BlockList/><BlockList/>`, nil, nimbus.CodeInvalid},
		"after its end":     {`<BlockList/><Latest>` + a + `</Latest>`, nil, nimbus.CodeInvalid},
		"in itself":         {`<BlockList><BlockList><Latest>` + a + `</Latest></BlockList></BlockList>`, nil, nimbus.CodeInvalid},
		"text":              {`<BlockList>hello</BlockList>`, nil, nimbus.CodeInvalid},
		"with an entity":    {`<!DOCTYPE x [<!ENTITY a "` + a + `">]><BlockList><Latest>&a;</Latest></BlockList>`, nil, nimbus.CodeInvalid},
		"what is committed": {`<BlockList><Committed>` + a + `</Committed></BlockList>`, nil, nimbus.CodeInvalid},
		"a block twice":     {`<BlockList><Latest>` + a + `</Latest><Latest>` + a + `</Latest></BlockList>`, nil, nimbus.CodeInvalid},
		"an id of nothing":  {`<BlockList><Latest></Latest></BlockList>`, nil, nimbus.CodeInvalid},
		"no base64":         {`<BlockList><Latest>../../7</Latest></BlockList>`, nil, nimbus.CodeInvalid},
		"a long id":         {`<BlockList><Latest>` + b64(strings.Repeat("x", maxBlockID+1)) + `</Latest></BlockList>`, nil, nimbus.CodeInvalid},
		"another charset":   {`<?xml version="1.0" encoding="ISO-8859-1"?><BlockList/>`, nil, nimbus.CodeInvalid},
	} {
		got, err := ReadBlockList(strings.NewReader(c.text), MaxBlocks)
		if nimbus.ErrorCode(err) != c.code || c.code == "" && !slices.Equal(got, c.want) {
			t.Errorf("a list %s: %q, %v", name, got, err)
		}
	}
}

func TestBlockListIsBounded(t *testing.T) {
	t.Parallel()
	list := func(blocks int) string {
		var b strings.Builder
		b.WriteString("<BlockList>")
		for i := range blocks {
			// The longest ids that there are.
			fmt.Fprintf(&b, "<Latest>%s</Latest>", b64(fmt.Sprintf("%0*d", maxBlockID, i)))
		}
		b.WriteString("</BlockList>")
		return b.String()
	}
	if got, err := ReadBlockList(strings.NewReader(list(MaxBlocks)), MaxBlocks); err != nil || len(got) != MaxBlocks {
		t.Errorf("the longest list: %d blocks, %v", len(got), err)
	}
	if _, err := ReadBlockList(strings.NewReader(list(MaxBlocks+1)), MaxBlocks); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("a longer one: %v", err)
	}
	if _, err := ReadBlockList(strings.NewReader(list(3)), 2); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("a list of more blocks than there are: %v", err)
	}
	if _, err := ReadBlockList(strings.NewReader("<BlockList>"+strings.Repeat(" ", MaxBlockList)+"</BlockList>"), MaxBlocks); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("a list of space: %v", err)
	}
	gone := nimbus.Errorf(nimbus.CodeCancelled, "the sender has gone")
	if _, err := ReadBlockList(iotest.ErrReader(gone), MaxBlocks); !errors.Is(err, gone) {
		t.Errorf("a list that breaks off: %v", err)
	}
}

// FuzzBlockList: what is read is ids, each once, in the one way to write them.
func FuzzBlockList(f *testing.F) {
	f.Add(`<?xml version="1.0" encoding="UTF-8"?><BlockList><Latest>` + b64("1") + `</Latest><Latest>` + b64("2") + `</Latest></BlockList>`)
	f.Add(`<BlockList><Uncommitted>` + b64("x") + `</Uncommitted><!-- --></BlockList>`)
	f.Add(`<!DOCTYPE a [<!ENTITY b "c">]><BlockList><Latest>&b;</Latest></BlockList>`)
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := ReadBlockList(strings.NewReader(text), MaxBlocks)
		if err != nil {
			if code := nimbus.ErrorCode(err); code != nimbus.CodeInvalid && code != nimbus.CodeTooLarge {
				t.Fatalf("a code of ours: %v", err)
			}
			return
		}
		known := map[string]bool{}
		for _, id := range blocks {
			raw, err := base64.StdEncoding.Strict().DecodeString(id)
			if err != nil || len(raw) == 0 || len(raw) > maxBlockID || known[id] || base64.StdEncoding.EncodeToString(raw) != id {
				t.Fatalf("%q is no id, or there twice", id)
			}
			known[id] = true
		}
	})
}
