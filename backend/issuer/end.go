// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"context"
	"slices"
)

// Ending is how an issuer ends one credential. An error of its functions that
// [IsGone] says that there is nothing to end.
type Ending struct {
	// NameOf returns the name of what has an ID now; "" if the root credential may not
	// know. It is nil for a registry that finds credentials by their names only.
	NameOf func(ctx context.Context, id string) (string, error)

	// Find returns the IDs of the credentials that have the name now.
	Find func(ctx context.Context) ([]string, error)

	// Delete ends what has an ID.
	Delete func(ctx context.Context, id string) error
}

// End ends the credential that has the name and the ID. If something else has the ID
// now, the registry counts its IDs anew, or is another one. Then only what has the
// name is ended.
func (e Ending) End(ctx context.Context, name, id string) error {
	if e.NameOf != nil {
		now, err := e.NameOf(ctx, id)
		switch {
		case IsGone(err):
			return nil
		case err != nil:
			return err
		case now == name:
			return goneIsSuccess(e.Delete(ctx, id))
		}
	}
	return e.EndNamed(ctx)
}

// EndNamed ends every credential that has the name.
func (e Ending) EndNamed(ctx context.Context) error {
	ids, err := e.Find(ctx)
	if err != nil {
		return goneIsSuccess(err)
	}
	for _, id := range ids {
		if err := goneIsSuccess(e.Delete(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

// EndListed ends what find returns, and then finds again. It is for a registry whose
// answers to a deletion have nothing of their own, or are not documented well enough to
// prove anything, so that only what it finds does: a proxy may answer a deletion with
// success in its place.
func EndListed(ctx context.Context, find func(context.Context) ([]string, error), del func(context.Context, string) error) error {
	ids, err := find(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		if err := goneIsSuccess(del(ctx, id)); err != nil {
			return err
		}
	}
	left, err := find(ctx)
	if err == nil && slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(left, id) }) {
		err = Malformedf("the credential is still there after it was revoked")
	}
	return err
}

// Narrowed returns find for the credential that has an ID, if it is among those that
// find returns. If none has the ID, the registry counts its IDs anew, and all are meant.
func Narrowed(find func(context.Context) ([]string, error), id string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		ids, err := find(ctx)
		if slices.Contains(ids, id) {
			return []string{id}, err
		}
		return ids, err
	}
}

func goneIsSuccess(err error) error {
	if IsGone(err) {
		return nil
	}
	return err
}
