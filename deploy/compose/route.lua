function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] ~= 'MEDREGA' then
    SendToModality(instanceId, 'medrega')
  end
end
