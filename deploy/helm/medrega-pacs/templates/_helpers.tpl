{{- define "medrega.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "medrega.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "medrega.claim" -}}
{{ .Values.data.existingClaim | default (printf "%s-data" .Release.Name) }}
{{- end }}

{{- define "medrega.pod" -}}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 45
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "medrega.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  - {name: settings, mountPath: /etc/medrega/medrega-pacs.toml, subPath: medrega-pacs.toml, readOnly: true}
  - {name: secrets, mountPath: /etc/medrega/secrets, readOnly: true}
{{- end }}

{{- define "medrega.volumes" -}}
- name: data
  persistentVolumeClaim: {claimName: {{ include "medrega.claim" . }}}
- name: tmp
  emptyDir: {}
- name: settings
  configMap: {name: {{ .Release.Name }}-settings}
- name: secrets
  secret: {secretName: {{ .Values.secretName }}, defaultMode: 0440}
{{- end }}
