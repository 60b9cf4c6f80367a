package transfer

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

const (
	// MaxBlocks is how many blocks a content has at most.
	MaxBlocks = 50_000
	// maxBlockID is how long a block's id is at most, as with Azure, before base64.
	maxBlockID = 64
	// MaxBlockList fits the most blocks with the longest ids.
	MaxBlockList = MaxBlocks * 128
	// maxTag bounds what is no element of a list, as a comment.
	maxTag = 1 << 10
)

// BlockID reads the id of a block, and writes it in the one way in which there is
// only one. Codes: invalid.
func BlockID(text string) (string, error) {
	id, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(id) == 0 || len(id) > maxBlockID || strings.ContainsAny(text, "\r\n") {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "the block id %.100q is not base64 of 1 to %d bytes", text, maxBlockID)
	}
	return base64.StdEncoding.EncodeToString(id), nil
}

// ReadBlockList reads the ids of the blocks that make a content, in their order; most
// is how many there may be, up to MaxBlocks.
// A block is there once: Azure allows it twice, nobody does it, and it would make
// much of little. Codes: invalid, too_large, and r's own.
func ReadBlockList(r io.Reader, most int64) ([]string, error) {
	var (
		d      = xml.NewDecoder(io.LimitReader(r, MaxBlockList+1))
		blocks []string
		known  = map[string]bool{}
		depth  int // 1 in the list, 2 after it
	)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && depth == 2 {
			return blocks, checkLength(d)
		}
		if err != nil {
			return nil, listError(d, err)
		}
		start, ok := token.(xml.StartElement)
		switch {
		case !ok:
			if err := besides(token); err != nil {
				return nil, err
			}
			if _, end := token.(xml.EndElement); end {
				depth++
			}
		case depth == 0 && start.Name.Local == "BlockList":
			depth++
		case depth == 1 && (start.Name.Local == "Latest" || start.Name.Local == "Uncommitted"):
			var text string
			if err := d.DecodeElement(&text, &start); err != nil {
				return nil, listError(d, err)
			}
			id, err := BlockID(strings.TrimSpace(text))
			if err != nil {
				return nil, err
			}
			if known[id] {
				return nil, nimbus.Errorf(nimbus.CodeInvalid, "the block list names the block %.100q twice", id)
			}
			if known[id], blocks = true, append(blocks, id); int64(len(blocks)) > most {
				return nil, nimbus.Errorf(nimbus.CodeTooLarge, "the block list has more than %d blocks", most)
			}
		default:
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%.100q has no place in a block list", start.Name.Local).
				WithHint("a list is of Latest: nothing here was committed before")
		}
	}
}

// besides refuses what is in a list and is neither an element nor space.
func besides(token xml.Token) error {
	switch t := token.(type) {
	case xml.EndElement, xml.ProcInst:
		return nil
	case xml.CharData:
		if strings.TrimSpace(string(t)) == "" {
			return nil
		}
	case xml.Comment:
		if len(t) <= maxTag {
			return nil
		}
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "there is something in the block list that is no block")
}

func checkLength(d *xml.Decoder) error {
	if d.InputOffset() > MaxBlockList {
		return nimbus.Errorf(nimbus.CodeTooLarge, "the block list has more than %d bytes", MaxBlockList)
	}
	return nil
}

// listError is why a list could not be read: what the body says itself goes on.
func listError(d *xml.Decoder, err error) error {
	if err := checkLength(d); err != nil {
		return err
	}
	if own := (*nimbus.Error)(nil); errors.As(err, &own) {
		return err
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "the block list can't be read: %w", err)
}
