// SPDX-License-Identifier: MPL-2.0

package ecrtest

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// element is a part of an answer in XML.
type element struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
	Parts   []element
}

func tag(name string, parts ...element) element {
	return element{XMLName: xml.Name{Local: name}, Parts: parts}
}

func text(name, value string) element {
	return element{XMLName: xml.Name{Local: name}, Text: value}
}

// serveQuery answers calls of STS and IAM.
func (s *Server) serveQuery(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	form, err := url.ParseQuery(peek(r))
	action := form.Get("Action")
	calls := map[string]struct {
		service, version string
		act              func(principal, url.Values) ([]element, *fault)
	}{
		"AssumeRole":        {"sts", "2011-06-15", s.assumeRole},
		"GetCallerIdentity": {"sts", "2011-06-15", s.callerIdentity},
		"ListAccessKeys":    {"iam", "2010-05-08", s.listAccessKeys},
		"CreateAccessKey":   {"iam", "2010-05-08", s.createAccessKey},
		"DeleteAccessKey":   {"iam", "2010-05-08", s.deleteAccessKey},
		"ListUserTags":      {"iam", "2010-05-08", s.listUserTags},
		"TagUser":           {"iam", "2010-05-08", s.tagUser},
		"UntagUser":         {"iam", "2010-05-08", s.untagUser},
	}
	if action == "AssumeRoleWithWebIdentity" { // the only call without a signature
		parts, wrong := s.assumeRoleWithWebIdentity(form)
		if wrong != nil {
			answerFault(w, wrong)
			return
		}
		answerXML(w, http.StatusOK, tag(action+"Response", tag(action+"Result", parts...)))
		return
	}
	call, known := calls[action]
	if err != nil || !known || form.Get("Version") != call.version {
		answerFault(w, &fault{status: 400, query: "InvalidAction", message: "Could not find operation " + action})
		return
	}
	who, wrong := s.authenticate(r, call.service)
	if wrong == nil && call.service == "iam" {
		wrong = s.mayOnUser(who, "iam:"+action, form.Get("UserName"))
	}
	var parts []element
	if wrong == nil {
		parts, wrong = call.act(who, form)
	}
	if wrong != nil {
		answerFault(w, wrong)
		return
	}
	answerXML(w, http.StatusOK, tag(action+"Response", tag(action+"Result", parts...), tag("ResponseMetadata", text("RequestId", rand.Text()))))
}

func answerFault(w http.ResponseWriter, wrong *fault) {
	answerXML(w, wrong.status, tag("ErrorResponse",
		tag("Error", text("Type", "Sender"), text("Code", wrong.query), text("Message", wrong.message+wrong.messageHeader)),
		text("RequestId", rand.Text())))
}

func answerXML(w http.ResponseWriter, status int, root element) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(root)
}

func (s *Server) callerIdentity(who principal, _ url.Values) ([]element, *fault) {
	return []element{text("Arn", who.arn), text("UserId", "AIDA"+who.name), text("Account", Account)}, nil
}

var (
	roleARN     = regexp.MustCompile(`^arn:aws:iam::` + Account + `:role/([\w+=,.@-]+)$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

func (s *Server) assumeRole(who principal, form url.Values) ([]element, *fault) {
	arn, name, policy := form.Get("RoleArn"), form.Get("RoleSessionName"), form.Get("Policy")
	if !sessionName.MatchString(name) {
		return nil, &fault{status: 400, query: "ValidationError", message: fmt.Sprintf("1 validation error detected: Value '%s' at 'roleSessionName' failed to satisfy constraint: Member must have length less than or equal to 64", name)}
	}
	if len(policy) > 2048 {
		return nil, &fault{status: 400, query: "ValidationError", message: "1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length less than or equal to 2048"}
	}
	var assumed *role
	if found := roleARN.FindStringSubmatch(arn); found != nil {
		assumed = s.roles[found[1]]
	}
	if assumed == nil || !who.may("sts:AssumeRole", arn) || !slices.Contains(assumed.trusts, who.user) || assumed.externalID != form.Get("ExternalId") {
		return nil, &fault{status: 403, query: "AccessDenied", message: fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", who.arn, arn)}
	}
	return s.addSession(roleARN.FindStringSubmatch(arn)[1], name, policy)
}

// addSession returns the parts of the answer that gives a session of a role.
func (s *Server) addSession(of, name, policy string) ([]element, *fault) {
	assumed, key := s.roles[of], s.newKey("ASIA")
	created := &session{secret: key.Secret, token: rand.Text() + rand.Text() + "==", expires: s.now().Add(sessionLifetime)}
	created.principal = principal{
		arn:   fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", Account, of, name),
		name:  name,
		allow: func() []Statement { return assumed.allow },
	}
	if policy != "" {
		limit, wrong := parsePolicy(policy)
		if wrong != "" {
			return nil, &fault{status: 400, query: "MalformedPolicyDocument", message: wrong}
		}
		created.limit, created.bound = limit, true
	}
	s.sessions[key.ID] = created
	return []element{
		tag("AssumedRoleUser", text("Arn", created.arn), text("AssumedRoleId", "AROAEXAMPLE:"+name)),
		tag("Credentials", text("AccessKeyId", key.ID), text("SecretAccessKey", key.Secret), text("SessionToken", created.token),
			text("Expiration", created.expires.UTC().Format(time.RFC3339))),
	}, nil
}

// assumeRoleWithWebIdentity answers the call of that name: with the token of the pod, or
// with one of Vault. The role trusts both, Vault's by its audience and its subject.
func (s *Server) assumeRoleWithWebIdentity(form url.Values) ([]element, *fault) {
	found := roleARN.FindStringSubmatch(form.Get("RoleArn"))
	proof, policy := form.Get("WebIdentityToken"), form.Get("Policy")
	subject, audience, ofVault := s.vault.Verify(proof)
	switch {
	case form.Get("Version") != "2011-06-15" || form.Has("ExternalId"):
		return nil, &fault{status: 400, query: "ValidationError", message: "The request is not valid."}
	case len(policy) > 2048:
		return nil, &fault{status: 400, query: "ValidationError", message: "1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length less than or equal to 2048"}
	case ofVault && audience != IdentityAudience:
		return nil, &fault{status: 400, query: "InvalidIdentityToken", message: "Incorrect token audience"}
	case proof != podProof && !ofVault:
		return nil, &fault{status: 400, query: "InvalidIdentityToken", message: "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements"}
	case found == nil || s.roles[found[1]] == nil || s.podRole != found[1] || !sessionName.MatchString(form.Get("RoleSessionName")),
		ofVault && subject != issuertest.MountSubject:
		return nil, &fault{status: 403, query: "AccessDenied", message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}
	}
	return s.addSession(found[1], form.Get("RoleSessionName"), policy)
}

// mayOnUser returns the error for a call of IAM about a user, nil if it is allowed.
func (s *Server) mayOnUser(who principal, action, name string) *fault {
	arn := s.userPrincipal(name).arn
	if !who.may(action, arn) {
		return denied(who, action, arn)
	}
	if s.users[name] == nil {
		return &fault{status: 404, query: "NoSuchEntity", message: fmt.Sprintf("The user with name %s cannot be found.", name)}
	}
	return nil
}

func (s *Server) createAccessKey(_ principal, form url.Values) ([]element, *fault) {
	u := s.users[form.Get("UserName")]
	if len(u.keys) >= keysPerUser {
		return nil, &fault{status: 409, query: "LimitExceeded", message: fmt.Sprintf("Cannot exceed quota for AccessKeysPerUser: %d", keysPerUser)}
	}
	key := s.newKey("AKIA")
	u.keys = append(u.keys, key)
	return []element{tag("AccessKey", text("UserName", form.Get("UserName")), text("AccessKeyId", key.ID), text("Status", "Active"), text("CreateDate", key.Created.UTC().Format(time.RFC3339)), text("SecretAccessKey", key.Secret))}, nil
}

func (s *Server) deleteAccessKey(_ principal, form url.Values) ([]element, *fault) {
	u, id := s.users[form.Get("UserName")], form.Get("AccessKeyId")
	before := len(u.keys)
	u.keys = slices.DeleteFunc(u.keys, func(key Key) bool { return key.ID == id })
	if len(u.keys) == before {
		return nil, &fault{status: 404, query: "NoSuchEntity", message: fmt.Sprintf("The Access Key with id %s cannot be found.", id)}
	}
	return nil, nil
}

func (s *Server) listAccessKeys(_ principal, form url.Values) ([]element, *fault) {
	var all []element
	for _, key := range s.users[form.Get("UserName")].keys {
		all = append(all, tag("member", text("UserName", form.Get("UserName")), text("AccessKeyId", key.ID), text("Status", "Active"), text("CreateDate", key.Created.UTC().Format(time.RFC3339))))
	}
	return page("AccessKeyMetadata", all, form), nil
}

func (s *Server) listUserTags(_ principal, form url.Values) ([]element, *fault) {
	tags := s.users[form.Get("UserName")].tags
	var all []element
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, tag("member", text("Key", key), text("Value", tags[key])))
	}
	return page("Tags", all, form), nil
}

// page returns one element of a list. AWS may return fewer elements than requested,
// and this server always returns one.
func page(name string, all []element, form url.Values) []element {
	at, err := strconv.Atoi(form.Get("Marker"))
	if err != nil || at > len(all) {
		at = 0
	}
	end := min(at+1, len(all))
	parts := []element{tag(name, all[at:end]...), text("IsTruncated", strconv.FormatBool(end < len(all)))}
	if end < len(all) {
		parts = append(parts, text("Marker", strconv.Itoa(end)))
	}
	return parts
}

func (s *Server) tagUser(_ principal, form url.Values) ([]element, *fault) {
	tags := s.users[form.Get("UserName")].tags
	for i := 1; form.Has(fmt.Sprintf("Tags.member.%d.Key", i)); i++ {
		tags[form.Get(fmt.Sprintf("Tags.member.%d.Key", i))] = form.Get(fmt.Sprintf("Tags.member.%d.Value", i))
	}
	return nil, nil
}

func (s *Server) untagUser(_ principal, form url.Values) ([]element, *fault) {
	tags := s.users[form.Get("UserName")].tags
	for i := 1; form.Has(fmt.Sprintf("TagKeys.member.%d", i)); i++ {
		delete(tags, form.Get(fmt.Sprintf("TagKeys.member.%d", i)))
	}
	return nil, nil
}
